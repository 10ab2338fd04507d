"""Two tabs of the demo's page: two models side by side, and the votes with another round of DPO on them.

Notable choices
- Names may be hidden, and the order is drawn anew then: who knows which answer is the new model's does not judge the answer alone.
- The round runs as a process of its own (`workshop feedback train`): the page stays alive, and its memory is given back at the end.
"""

from __future__ import annotations

import html
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from workshop_lib import WorkshopError, display, feedback, votes
from workshop_lib.chat_client import conversation, reply, side_by_side
from workshop_lib.talkers import FEEDBACK, Talkers

LATEST = 10  # votes that are shown
PLACES = ("first", "second", "tie")


def compare_tab(gr, talkers: Talkers, home: Path | None, controls: list) -> list:
    """Two answers to one question, and which is better. Returns the menus of models. controls: those of the chat."""
    from workshop_lib.demo import sampling

    labels = talkers.labels
    gr.Markdown("같은 물음을 두 모델에게 묻고, 나은 쪽을 고른다. 시스템 프롬프트와 표본 추출은 대화 탭에서 정한 것을 쓴다.")
    with gr.Row():
        left = gr.Dropdown(labels, value=labels[0], label="한쪽", elem_id="left-model", min_width=140)
        right = gr.Dropdown(labels, value=labels[1], label="다른 쪽", elem_id="right-model", min_width=140)
    blind = gr.Checkbox(value=home is not None, label="이름을 가리고 순서를 섞는다", elem_id="blind", container=False)
    with gr.Row():
        text = gr.Textbox(placeholder="물음을 쓰고 Enter", container=False, scale=5, elem_id="question")
        ask = gr.Button("두 답 받기", variant="primary", scale=1, min_width=120, elem_id="ask-both")
    with gr.Row():
        answers = []
        for name in ("left-answer", "right-answer"):
            with gr.Column(min_width=260):
                answers.append(gr.HTML(_card("", ""), elem_id=name, padding=False))
    state = gr.State({})
    buttons = []
    if home is not None:
        with gr.Row():
            for place, name in zip(PLACES, ("왼쪽이 낫다", "오른쪽이 낫다", "비슷하다")):
                buttons.append(gr.Button(name, interactive=False, min_width=90, elem_id=f"choose-{place}"))
    said = gr.HTML(elem_id="compared", padding=False)

    def both(question, one, other, hidden, mode, system, *numbers) -> Iterator[tuple]:
        question = (question or "").strip()
        closed = [gr.update(interactive=False)] * len(buttons)
        if not question:
            yield *(_card("", ""),) * 2, {}, _said("물음을 쓴다."), *closed
            return
        pair = [one, other]
        if hidden:
            random.shuffle(pair)
        heads = ("답 가", "답 나") if hidden else pair
        waiting = [label for label in pair if not talkers.started(label)]
        note = f"모델을 띄우는 중이다: {', '.join(waiting)}" if waiting and not hidden else "모델을 띄우는 중이다." if waiting else ""
        yield *(_card(head, "") for head in heads), {}, _said(note), *closed
        messages = conversation(system, [], question)
        try:
            first, second = (talkers.get(label) for label in pair)
            streams = (reply(talker.client, talker.model, messages, sampling(*numbers)) for talker in (first, second))
            for parts in side_by_side(*streams):
                found = {"messages": messages, "answers": tuple(part.text for part in parts), "models": (first.model, second.model),
                         "labels": pair}  # fmt: skip
                cards = [_card(head, part.text) for head, part in zip(heads, parts)]
                yield *cards, found, "", *closed
        except WorkshopError as error:
            yield *(_card(head, "") for head in heads), {}, _said(str(error)), *closed
            return
        yield *cards, found, "", *([gr.update(interactive=True)] * len(buttons))

    def choose(place, found):
        if not found:
            return gr.skip(), gr.skip(), _said("먼저 두 답을 받는다.")
        try:
            votes.compare(home, found["messages"], found["answers"], place, found["models"])
            given = votes.counts(home)["comparisons"]
        except WorkshopError as error:
            return gr.skip(), gr.skip(), _said(str(error))
        same = " 두 답이 같아 쌍이 되지는 않는다." if len(set(found["answers"])) == 1 else ""
        better = "두 답이 비슷하다" if place == "tie" else f"{found['labels'][PLACES.index(place)]} 쪽이 낫다"
        cards = [_card(label, text) for label, text in zip(found["labels"], found["answers"])]
        return *cards, _said(f"{better}고 저장했다. 지금까지 견준 것 {given}개.{same}")

    outputs, asked = [*answers, state, said, *buttons], [text, left, right, blind, *controls]
    ask.click(both, asked, outputs, api_name="compare")
    text.submit(both, asked, outputs, api_visibility="private")
    for place, button in zip(PLACES, buttons):
        button.click(lambda found, place=place: choose(place, found), state, [*answers, said], api_name=f"choose_{place}")
    return [left, right]


def _said(*lines: str) -> str:
    return f"<div class='said'>{'<br>'.join(html.escape(line) for line in lines)}</div>"


def _card(head: str, text: str) -> str:
    return f'<div class="answer"><b>{html.escape(head)}</b>{html.escape(text)}</div>'


def feedback_tab(gr, blocks, tab, talkers: Talkers, home: Path, menus: list) -> None:
    """The votes, and a button that lets the aligned model learn from them. menus: of models; the new one is added to them."""
    given = gr.HTML(elem_id="votes", padding=False)
    button = gr.Button("피드백으로 다시 맞추기", variant="primary", elem_id="train")
    log = gr.HTML(elem_id="log", padding=False)
    outcome = gr.HTML(elem_id="outcome", padding=False)

    def train() -> Iterator[tuple]:
        lines: list[str] = []
        same = [gr.skip()] * len(menus)
        yield gr.update(interactive=False), _said("시작하는 중이다."), gr.skip(), *same
        try:
            for line in _rounds(home):
                if lines and lines[-1].startswith("학습 ") and line.startswith("학습 "):
                    lines.pop()  # only how far it is now
                lines.append(line)
                yield gr.update(interactive=False), _said(*lines), gr.skip(), *same
            talkers.renew(FEEDBACK, home / "feedback" / "model")
        except WorkshopError as error:
            yield gr.update(interactive=True), _said(*str(error).split("\n")), gr.skip(), *same
            return
        lines.append(f"끝났다. 대화와 견주기 탭에서 '{FEEDBACK}'을 고를 수 있다.")
        yield gr.update(interactive=True), _said(*lines), _outcome(home), *[gr.update(choices=talkers.labels)] * len(menus)

    look = {"fn": lambda: (_given(home), _outcome(home)), "inputs": None, "outputs": [given, outcome], "api_visibility": "private"}
    blocks.load(**look)
    tab.select(**look)
    button.click(train, None, [button, log, outcome, *menus], api_name="train", concurrency_limit=1)


def _rounds(home: Path) -> Iterator[str]:
    """`workshop feedback train` as a process: what it says, line by line, up to its results. Raises WorkshopError where it fails."""
    command = [sys.executable, "-m", "workshop_lib.cli", "feedback", "train", "--home", str(home)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        try:
            for line in process.stdout:
                if not line.strip():
                    break  # the results follow; the page reads them from where they were saved
                yield line.rstrip()
            _, errors = process.communicate()
        finally:
            if process.poll() is None:
                process.terminate()
    if process.returncode:
        said = errors.strip().splitlines()
        start = next((place for place, line in enumerate(said) if line.startswith("오류: ")), max(0, len(said) - 1))
        raise WorkshopError("\n".join(said[start:]).removeprefix("오류: ") or "까닭을 말하지 않고 멈추었다.")


def _given(home: Path) -> str:
    """HTML: how many votes there are, the latest of them, and what pairs they make."""
    try:
        count, thumbs, choices, found = votes.counts(home), votes.votes(home), votes.comparisons(home), feedback.pairs(home)
    except WorkshopError as error:
        return f"<p>{html.escape(str(error))}</p>"
    rows = [(row["time"], "좋다" if row["vote"] > 0 else "나쁘다", row["messages"], row["answer"], row["model"]) for row in thumbs]
    for row in choices:
        tie, better = row["choice"] == "tie", PLACES.index(row["choice"])
        models = " = ".join(row["models"]) if tie else f"{row['models'][better]} > {row['models'][1 - better]}"
        answer = " / ".join(row["answers"]) if tie else row["answers"][better]
        rows.append((row["time"], "비슷하다" if tie else "더 낫다", row["messages"], answer, models))
    lines = [
        {"때": f"{datetime.fromtimestamp(when):%m-%d %H:%M}", "표": said, "물음": asked[-1]["content"], "답": answer, "모델": model}
        for when, said, asked, answer, model in sorted(rows, key=lambda row: -row[0])[:LATEST]
    ]
    head = f"좋다 <b>{count['up']}</b>개, 나쁘다 <b>{count['down']}</b>개, 견준 것 <b>{count['comparisons']}</b>개."
    return f"<p>{head}</p>{_table(lines) if lines else ''}{_said(*found.summary().split(chr(10)))}"


def _outcome(home: Path) -> str:
    """HTML: the last round, before and after."""
    try:
        last = feedback.last_round(home)
    except WorkshopError as error:
        return f"<p>{html.escape(str(error))}</p>"
    if last is None:
        return ""
    answers = [{"물음": row["question"], "앞": row["before"], "뒤": row["after"], "고른 답": row["chosen"]} for row in last.answers]
    return (f"<h3>마지막으로 맞춘 결과</h3><p>쌍 {last.metrics['pairs']:,}개, {last.metrics['seconds']:.0f}초.</p>"
            f"{_table(last.table())}<h3>같은 물음에 앞과 뒤</h3>{_table(answers)}")  # fmt: skip


def _table(rows: list[dict]) -> str:
    return f"<div class='table'>{display.table(rows)._repr_html_()}</div>"
