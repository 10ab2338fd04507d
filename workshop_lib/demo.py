"""`workshop demo`: talk to models in the browser, say what is better, and let them learn from it.

The page has up to three tabs: a chat with thumbs, two models side by side (`demo_tabs.compare_tab`), and the votes with another round of
DPO on them (`demo_tabs.feedback_tab`). Behind it are servers that speak OpenAI's protocol (`chat_client`, `talkers`).

Notable choices
- Words appear as the server sends them. Stopping closes the connection, and the server frees the request's place.
- A vote is kept with the conversation as it was asked, not as the page shows it later: system prompt and forgotten messages included.
- A base model cannot chat, so it may go on writing instead (`COMPLETE`).
- Nothing is fetched from outside: Gradio's analytics and web fonts are off.
"""

import contextlib
import html
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError, votes
from workshop_lib.chat_client import Reply, Sampling, connect, conversation, reply, token_view
from workshop_lib.talkers import OF_THE_COURSE, Talker, Talkers, segmenter

if TYPE_CHECKING:
    import gradio

__all__ = ["Reply", "Sampling", "connect", "conversation", "page", "reply", "running", "token_view"]
CHAT, COMPLETE = "대화", "이어 쓰기"
FAILED = "(답을 받지 못했다"
GUIDE = "답 아래의 엄지로 표를 준다. 견주기에서 두 모델의 답을 고르고, 피드백에서 그 표로 다시 맞춘다."
KIND = {CHAT: votes.CHAT, COMPLETE: votes.COMPLETION}
CSS = """
.gradio-container > .main { width: 100%; max-width: 1000px !important; margin: 0 auto; }
#title h1 { font-size: 1.5rem; margin: .4rem 0 .1rem; }
#title p, .said, .answer b { color: var(--body-text-color); opacity: .72; }
.gradio-container { word-break: keep-all; overflow-wrap: anywhere; }
#conversation .message { line-height: 1.65; }
.said { line-height: 1.6; min-height: 1.6rem; }
.answer { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .7rem 1rem; min-height: 5.5rem; line-height: 1.7;
          white-space: pre-wrap; }
.answer b { display: block; font-size: .85rem; margin-bottom: .2rem; }
.table { overflow-x: auto; }
.table table { width: 100%; min-width: 600px; border-collapse: collapse; font-size: .92rem; margin: .4rem 0; }
.table table, .table tr, .table thead { border: 0 !important; }
.table th, .table td { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; padding: .35rem .6rem;
                       vertical-align: top; min-width: 3.5rem; }
#votes td:nth-child(-n+2) { white-space: nowrap; }
"""


def page(talkers: Talkers, home: Path | None = None, complete: bool = False) -> "gradio.Blocks":
    """The page. home: the workspace that keeps the votes (None: nobody votes); complete: begin in the mode `COMPLETE`."""
    gr = _gradio()
    first = talkers.get(talkers.labels[0])
    with gr.Blocks(title="LLM From Scratch 워크숍", analytics_enabled=False) as blocks:
        alone = home is None and len(talkers.labels) == 1
        about = GUIDE if len(talkers.labels) > 1 else f"모델 {first.model}, 서버 {first.client.base_url}"
        gr.Markdown(f"# 내 모델과 이야기하기\n{about}", elem_id="title")
        if alone:
            _chat(gr, talkers, home, complete)
            return blocks
        from workshop_lib import demo_tabs

        with gr.Tab("대화"):
            chosen, controls = _chat(gr, talkers, home, complete)
        menus = [chosen]
        if len(talkers.labels) > 1:
            with gr.Tab("견주기"):
                menus += demo_tabs.compare_tab(gr, talkers, home, controls)
        if home is not None:
            with gr.Tab("피드백") as tab:
                demo_tabs.feedback_tab(gr, blocks, tab, talkers, home, menus)
    return blocks


def _chat(gr, talkers: Talkers, home: Path | None, complete: bool) -> tuple["gradio.Dropdown", list]:
    """The chat with its settings. Returns the menu of models, and the controls that a comparison shares."""

    def answer(message, history, mode, system, temperature, top_p, max_tokens, seed, label, asked):
        """One turn: the text so far, the token view and what was asked, again and again."""
        writing_on, place, text = mode == COMPLETE, len(history) + 1, message if mode == COMPLETE else ""
        failed = {spot for spot, turn in asked.items() if turn is None}
        said = [turn for spot, turn in enumerate(history) if not failed & {spot, spot + 1}]
        messages = [{"role": "user", "content": message}] if writing_on else conversation(system, said, message)
        try:
            talker = talkers.get(label)
            for part in reply(talker.client, talker.model, messages, sampling(temperature, top_p, max_tokens, seed), writing_on):
                turn = {"messages": messages, "answer": part.text, "model": talker.model, "kind": KIND[mode]}
                # Gradio takes a message for HTML and drops tags it does not know, <think> among them: escaped, they are seen.
                text = html.escape((message if writing_on else "") + part.text, quote=False)
                yield text, token_view(part, talker.segmenter), asked | {place: turn}
        except WorkshopError as error:
            # An error raised here would leave Gradio's chat locked.
            yield f"{text} {FAILED}: {html.escape(str(error), quote=False)})".strip(), "", asked | {place: None}

    def thumb(data: gr.LikeData, asked):
        place = data.index[0] if isinstance(data.index, (list, tuple)) else data.index
        if not (turn := asked.get(place)):
            return "<div class='said'>이 답에는 표를 줄 수 없다.</div>"
        chosen = {True: 1, False: -1}.get(data.liked, 0)  # the same thumb once more takes the vote back
        try:
            votes.vote(home, turn["messages"], turn["answer"], chosen, turn["model"], turn["kind"])
            given = votes.counts(home)
        except WorkshopError as error:
            return f"<div class='said'>{html.escape(str(error))}</div>"
        said = {1: "좋다고 한 표를 저장했다", -1: "나쁘다고 한 표를 저장했다", 0: "표를 거두었다"}[chosen]
        hint = "'다시 시도'로 다른 답을 받아 반대 표를 주면 쌍이 된다."
        return f"<div class='said'>{said}. 지금까지 좋다 {given['up']}개, 나쁘다 {given['down']}개. {hint}</div>"

    several = len(talkers.labels) > 1
    menu = gr.Dropdown(talkers.labels, value=talkers.labels[0], label="모델", visible=several, elem_id="model")
    controls = [
        gr.Radio([CHAT, COMPLETE], value=COMPLETE if complete else CHAT, label="방식", info="기본 모델은 대화를 못 배웠다", render=False),
        gr.Textbox(label="시스템 프롬프트", lines=2, render=False),
        gr.Slider(0, 2, value=0.8, step=0.05, label="온도", info="0이면 늘 가장 그럴듯한 토큰", render=False),
        gr.Slider(0.05, 1, value=0.95, step=0.05, label="top-p", render=False),
        gr.Slider(0, 1024, value=0, step=1, label="최대 토큰", info="0이면 서버가 정한다", render=False),
        gr.Number(value=-1, precision=0, label="시드", info="음수면 매번 다르다", render=False),
    ]
    tokens, asked = gr.HTML(label="토큰", render=False), gr.State({})
    shown = gr.Chatbot(label="대화", height=420, elem_id="conversation", render_markdown=False, buttons=["copy"], render=False,
                       placeholder="무엇이든 물어본다. 답 아래의 엄지로 표를 준다." if home else None)  # fmt: skip
    gr.ChatInterface(
        answer,
        chatbot=shown,
        textbox=gr.Textbox(placeholder="메시지를 쓰고 Enter", elem_id="message", container=False, scale=7, submit_btn="보내기",
                           stop_btn="멈추기", render=False),
        additional_inputs=[*controls, menu, asked],
        additional_inputs_accordion=gr.Accordion("시스템 프롬프트와 표본 추출", open=False, render=False),
        additional_outputs=[tokens, asked],
        api_name="chat",
        flagging_mode="never",
        analytics_enabled=False,
        autofocus=False,
    )  # fmt: skip
    if home is not None:
        voted = gr.HTML(elem_id="voted", padding=False)
        shown.like(thumb, asked, voted, api_visibility="private")
    tokens.render()
    base = OF_THE_COURSE["base_model"]
    menu.change(lambda label: COMPLETE if label == base else CHAT, menu, controls[0], api_visibility="private")
    return menu, controls


def sampling(temperature: float, top_p: float, max_tokens: float, seed: float | None) -> Sampling:
    """What the controls say."""
    return Sampling(float(temperature), float(top_p), int(max_tokens), int(seed) if seed is not None and seed >= 0 else None)


@contextlib.contextmanager
def running(
    url: str | None = None, model: str | None = None, *, tokenizer: Path | None = None, key: str = "none", complete: bool = False,
    host: str = "127.0.0.1", port: int | None = None, home: Path | None = None, others: Mapping[str, Path | str] | None = None,
) -> Iterator[str]:  # fmt: skip
    """The page on `port` (None: a free one) for the length of a with block; gives its address.

    url: of the model's server, with /v1; tokenizer: folder of that model's tokenizer, for the token view. others: further models, label →
    folder or address; a folder's server is started when it is first asked for, and at once for the first one where there is no url.
    home: workspace that keeps votes.
    Raises WorkshopError where the server does not answer or the port is taken.
    """
    with contextlib.ExitStack() as stack:
        talkers = Talkers(others or {}, key)
        stack.callback(talkers.close)
        if url:
            client, name = connect(url, model, key)
            talkers.add(name, Talker(name, stack.enter_context(client), name, segmenter(tokenizer) if tokenizer else None))
        if not talkers.labels:
            raise WorkshopError("이야기할 모델이 없다. 서버의 주소나 모델 폴더를 준다.")
        gr = _gradio()
        blocks = page(talkers, home, complete)
        plain = gr.themes.Default(font=["NanumGothic", "Noto Sans KR", "sans-serif"], font_mono=["monospace"])
        try:
            _, address, _ = blocks.launch(
                server_name=host, server_port=port or _free_port(host), prevent_thread_lock=True, quiet=True, inbrowser=False, share=False,
                theme=plain, css=CSS, footer_links=[], inline=False, ssr_mode=False,
            )  # fmt: skip
        except OSError as error:
            raise WorkshopError(f"{host}:{port}에서 데모를 열 수 없다. 이미 쓰는 포트이면 --port로 다른 포트를 고른다.") from error
        stack.callback(blocks.close, verbose=False)
        yield address


def _free_port(host: str) -> int:
    import socket

    with socket.create_server((host, 0)) as free:
        return free.getsockname()[1]


def _gradio():
    """The library, with its analytics (which call home at import) off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    return gradio
