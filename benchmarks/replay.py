"""A short day on `workshop serve`, and how soon an alarm on the inputs' bits per character would notice a change.

    python benchmarks/replay.py MODEL_FOLDER METER_FOLDER [--chat] [--max-batch 4] [--queue 64] [--drift english] [--figure FILE.png]

Sends `traffic.DAY` to the model: what the client saw in each phase, and whether the server counted the same. The meter (the base
model, say) measures the inputs. Then, for every kind of input, many streams drawn from measured requests (`drift.rehearse`): false
alarms while all is calm, the request of the other kind that sets the alarm off, and the share of streams where none does.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from workshop_lib import checkpoints, display, drift, local_server, monitoring, tokenization, traffic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("meter", type=Path)
    parser.add_argument("--chat", action="store_true", help="questions to the desk as a user's turn; otherwise stories to be continued")
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--drift", default="english", choices=traffic.KINDS)
    parser.add_argument("--calm", type=int, default=1_000, help="calm requests that the streams are drawn from")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    calm = "desk" if options.chat else "story"
    calls = traffic.trace([replace(phase, kind=calm if phase.kind == "desk" else options.drift) for phase in traffic.DAY])
    with local_server.running(options.model, max_batch=options.max_batch, queue=options.queue) as server:
        found = traffic.replay(server.url, server.model, calls, chat=options.chat)
    last, counts = found.scrapes[-1], found.counts()
    counted = {status: int(last.total("workshop_requests_total", status=status)) for status in ("200", "429", "504")}
    written = int(last.total("workshop_tokens_total", kind="completion")), sum(one.tokens for one in found.outcomes)
    print(display.table(found.rows()))
    print(f"\n요청 {len(calls)}개: 보낸 쪽 {counts}, 서버 {counted}")
    print(f"쓴 토큰: 보낸 쪽 {written[1]:,}, 서버 {written[0]:,}. /metrics를 읽은 횟수: {len(found.scrapes)}\n")
    model, tokenizer = checkpoints.load_model(options.meter), tokenization.load(options.meter)

    def bits(texts: list[str]):
        return drift.bits_per_character(model, tokenizer, texts)

    usual = bits(traffic.inputs(calm, options.calm, seed=7))
    alarm, seen = drift.calibrate(usual[:200]), bits([call.text for call in calls])
    first = alarm.first(seen)
    start = next(place for place, call in enumerate(calls) if call.phase == traffic.DAY[-1].name)
    print(f"낯선 입력({options.drift})은 {start}번째 요청부터, 경보는 {'없음' if first is None else f'{first}번째'}\n")
    rows = []
    for kind, (name, _) in traffic.KINDS.items():
        other = bits(traffic.inputs(kind, 200, seed=8))
        row = drift.rehearse(usual, other)
        rows.append({
            "입력": name, "문자당 비트": other.mean(), "거짓 경보": row["false_alarms"], "경보까지 (중앙값)": row["delay_median"],
            "(90%)": row["delay_p90"], "놓침": row["missed"],
        })  # fmt: skip
    print(f"평소: {traffic.KINDS[calm][0]}, 문자당 {usual.mean():.2f}±{usual.std():.2f}비트. 거짓 경보의 약속은 5%")
    print(display.table(rows))
    if options.figure:
        monitoring.figure(found, seen, alarm).savefig(options.figure)


if __name__ == "__main__":
    main()
