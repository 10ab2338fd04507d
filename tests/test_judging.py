"""The judge speaks to a real server over a real socket with the real client, and says how far it can be trusted."""

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workshop_lib import WorkshopError, judging
from workshop_lib.judging import Comparison, Judge, Report, compare_all, parse_verdict


@pytest.fixture
def serve():
    """serve(answer) starts a server of the OpenAI kind; answer(question, A, B) is what its model writes, or (status, body)."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, self.headers.get("Authorization"), request))
                prompt = request["messages"][0]["content"]
                parts = re.search(r"\[질문\]\n(.*?)\n\n\[답 A\]\n(.*?)\n\n\[답 B\]\n(.*?)\n\n", prompt, re.DOTALL)
                said = answer(*parts.groups())
                status, body = said if isinstance(said, tuple) else (200, completion(said))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # the client has lost its patience
                    self.wfile.write(body.encode("utf-8"))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server, Judge(f"http://127.0.0.1:{server.server_port}/v1", "judge-model", key="secret", timeout=10)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def completion(text):
    return json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "judge-model",
                       "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]})  # fmt: skip


PAIRS = [
    ("수도는?", "서울이다. 한강이 흐른다.", "모른다."),
    ("1+1은?", "2", "둘이다. 하나에 하나를 더하면 둘이 된다."),
    ("색은?", "파랑", "빨강"),
]


def longer(question, a, b):
    return f"길이를 보았다.\n판정: {'무승부' if len(a) == len(b) else 'A' if len(a) > len(b) else 'B'}"


def test_a_fair_judge_is_consistent(serve):
    server, judge = serve(longer)
    report = compare_all(judge, PAIRS)
    assert [c.outcome for c in report.comparisons] == ["first", "second", "tie"]
    assert report.counts == {"first": 1, "second": 1, "tie": 1, "inconsistent": 0, "invalid": 0}
    assert report.first_place_share[0] == 0.5 and report.win_rate[0] == 0.5
    path, key, request = server.requests[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and request["model"] == "judge-model" and request["temperature"] == 0
    shown = [r["messages"][0]["content"] for _, _, r in server.requests]
    assert len(shown) == 6
    assert shown[0].index("서울이다") < shown[0].index("모른다") and shown[1].index("모른다") < shown[1].index("서울이다")


@pytest.mark.parametrize(("place", "share"), [("A", 1.0), ("B", 0.0)])
def test_a_judge_that_loves_a_place_wins_nobody_anything(serve, place, share):
    _, judge = serve(lambda *_: f"판정: {place}")
    report = compare_all(judge, PAIRS * 3)
    assert report.counts["inconsistent"] == 9 and report.win_rate is None
    assert report.first_place_share[0] == share
    low, high = report.first_place_share[1:]
    assert high < 0.5 or low > 0.5  # nine pairs are enough to see it


def test_malformed_answers_are_invalid_and_not_guessed(serve):
    answers = iter(["둘 다 좋다.", "판정: A", "", "판정: C", "판정: A, B, 무승부 가운데 하나", "A가 A이고 B는 B이다"])
    _, judge = serve(lambda *_: next(answers))
    report = compare_all(judge, PAIRS)
    assert report.counts == {"first": 0, "second": 0, "tie": 0, "inconsistent": 0, "invalid": 3}
    assert report.win_rate is None and report.first_place_share is None
    assert report.comparisons[0].raw == ("둘 다 좋다.", "판정: A")


def test_answers_with_braces_are_only_text(serve):
    _, judge = serve(lambda question, a, b: f"판정: {'A' if '{' in a else 'B'}")
    assert judge.compare("무엇인가? {question}", "{second} {0}", "없음").outcome == "first"


VERDICTS = [
    ("판정: A", "A"), ("판정: B", "B"), ("판정: 무승부", "tie"), ("이유는 이렇다. A가 길다.\n판정: B", "B"), ("**판정: A**", "A"),
    ("판정：Ｂ", "B"), ("판정: '답 A'", "A"), ("판정은 B", "B"), ("판정: A\n다시 보니\n판정: B", "B"), ("a", "A"), ("B.", "B"),
    ("무승부", "tie"), ("[[A]]", "A"), ("판정: b", "B"), ("<think>판정: A</think>판정: B", "B"), ("<think>판정: A", None),
    ("판정: A 또는 B", None), ("판정: Apple", None), ("답 A가 낫다", None), ("", None), (None, None), ("판정:", None),
    ("판정: 'A', 'B', '무승부' 가운데 하나", None), ("AB", None), ("1" * 30, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "verdict"), VERDICTS)
def test_verdicts(text, verdict):
    assert parse_verdict(text) == verdict


def test_outcomes():
    places = ("A", "B", "tie")
    agree = {("A", "B"): "first", ("B", "A"): "second", ("tie", "tie"): "tie"}
    for given in places:
        for swapped in places:
            assert Comparison(given, swapped).outcome == agree.get((given, swapped), "inconsistent")
    assert Comparison(None, "A").outcome == Comparison("A", None).outcome == "invalid"
    assert sum(Report(tuple(Comparison(a, b) for a in (*places, None) for b in (*places, None))).counts.values()) == 16


NO_SUCH_MODEL = '{"error": {"message": "no such model"}}'


@pytest.mark.parametrize("said", [(500, "{}"), (404, NO_SUCH_MODEL), (401, "{}"), (200, "이것은 JSON이 아니다"), (200, "{}"), (200, "[]")])
def test_a_broken_server_is_named(serve, said):
    _, judge = serve(lambda *_: said)
    with pytest.raises(WorkshopError, match="심판 서버 http://127.0.0.1"):
        judge.compare("질문", "가", "나")


def test_a_silent_server_and_no_server_are_named(serve):
    _, judge = serve(lambda *_: time.sleep(3) or "판정: A")
    hasty = Judge(judge.base_url, "m", timeout=0.3)
    with pytest.raises(WorkshopError, match="0.3초"):
        hasty.ask("[질문]\nq\n\n[답 A]\na\n\n[답 B]\nb\n\n")
    with pytest.raises(WorkshopError, match="연결할 수 없다"):
        Judge("http://127.0.0.1:9/v1", "m", timeout=2).ask("가")


def test_the_environment_names_the_judge(monkeypatch):
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"WORKSHOP_JUDGE_{name}", raising=False)
    assert Judge.from_environment() is None
    monkeypatch.setenv("WORKSHOP_JUDGE_URL", "http://localhost:1/v1")
    with pytest.raises(WorkshopError, match="WORKSHOP_JUDGE_MODEL"):
        Judge.from_environment()
    monkeypatch.setenv("WORKSHOP_JUDGE_MODEL", "big")
    assert Judge.from_environment() == Judge("http://localhost:1/v1", "big", "none")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="config.json"), judging.serving(tmp_path):
        pass


def save_judge(folder, context):
    from workshop_lib import checkpoints, tokenization
    from workshop_lib.architectures.transformer import Transformer, TransformerConfig

    tokenizer = tokenization.wrap(tokenization.train_byte_bpe(["판정: A 판정: B"] * 3, 300, tokenization.SPECIAL_TOKENS), context)
    shape = TransformerConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, max_position_embeddings=context)
    checkpoints.save_model(Transformer(shape, 0), tokenizer, folder)


@pytest.mark.slow
def test_the_students_model_judges_behind_the_courses_server(tmp_path):
    save_judge(tmp_path, 2048)
    with judging.serving(tmp_path) as judge:
        report = compare_all(Judge(judge.base_url, judge.model, max_tokens=8), PAIRS[:1])
    assert sum(report.counts.values()) == 1
    assert not any("문맥" in said for comparison in report.comparisons for said in comparison.raw)
    with pytest.raises(WorkshopError, match="연결할 수 없다"):
        judge.ask("가")


@pytest.mark.slow
def test_a_question_too_long_for_the_judge_is_an_invalid_verdict_with_its_reason(tmp_path):
    save_judge(tmp_path, 128)
    with judging.serving(tmp_path) as judge:
        report = compare_all(judge, PAIRS[:1])
    assert report.counts["invalid"] == 1 and "문맥" in report.comparisons[0].raw[0]
