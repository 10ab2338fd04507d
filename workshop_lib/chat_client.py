"""Talk to a server that speaks OpenAI's protocol: what `workshop demo` does behind its page.

    connect         a client, and the model to ask for
    reply           an answer as it grows
    side_by_side    two answers as they grow
    conversation    what a chat page keeps, as OpenAI's messages

Notable choices
- The model is known by its server's address only: `workshop serve`, vLLM or Triton behind it make no difference.
- A conversation longer than the model's context loses its oldest exchanges (and the answer says how many), never its system prompt.
- Leaving an answer closes the connection, and the server frees the request's place.
"""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workshop_lib import WorkshopError, display

if TYPE_CHECKING:
    from openai import OpenAI

    from workshop_lib.segmentation import Segmenter

Message = dict[str, str]


@dataclass(frozen=True)
class Sampling:
    """How to draw the next token. max_tokens 0: as many as the server allows; seed None: another answer each time."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 0
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        """As fields of a request."""
        chosen: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p}
        if self.max_tokens:
            chosen["max_tokens"] = self.max_tokens
        if self.seed is not None:
            chosen["seed"] = self.seed
        return chosen


@dataclass(frozen=True)
class Reply:
    """An answer as far as it has come. pieces: what arrived at once; forgotten: messages left out because the context is full."""

    text: str = ""
    pieces: tuple[str, ...] = ()
    forgotten: int = 0
    seconds: float = 0.0
    first: float = 0.0  # seconds until the first piece
    read: int | None = None  # tokens, as the server counted them at the end
    written: int | None = None


def reply(client: OpenAI, model: str, messages: Sequence[Message], sampling: Sampling, complete: bool = False) -> Iterator[Reply]:
    """The answer to `messages`, growing; with `complete`, the last message written on.

    Where the server finds the text too long, the oldest exchange is left out and it is asked again.
    Raises WorkshopError where the server cannot be reached or refuses.
    """
    import httpx
    import openai

    kept, begun, forgotten = [dict(message) for message in messages], time.perf_counter(), 0
    try:
        while True:
            try:
                stream = _open(client, model, kept, sampling, complete)
                break
            except openai.BadRequestError as error:
                oldest = 1 if kept[0]["role"] == "system" else 0
                if not _too_long(error) or complete or len(kept) - oldest < 3:
                    raise
                del kept[oldest : oldest + 2]  # a question and its answer
                forgotten += 2
        pieces, first, usage = [], 0.0, None
        with contextlib.closing(stream):
            for chunk in stream:
                usage = chunk.usage or usage
                piece = _words(chunk, complete)
                if piece:
                    first = first or time.perf_counter() - begun
                    pieces.append(piece)
                    yield Reply("".join(pieces), tuple(pieces), forgotten, time.perf_counter() - begun, first)
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        yield Reply("".join(pieces), tuple(pieces), forgotten, time.perf_counter() - begun, first, read, written)
    except openai.APIConnectionError as error:
        raise WorkshopError(f"서버 {client.base_url}에 연결할 수 없다. 서버가 떠 있는지, 주소가 /v1로 끝나는지 확인한다.") from error
    except openai.OpenAIError as error:
        raise WorkshopError(f"서버가 거절했다: {str(getattr(error, 'message', error))[:300]}") from error
    except (httpx.HTTPError, ValueError) as error:  # while the answer was coming the client hands these through
        raise WorkshopError(f"답이 오다가 끊겼다({str(error)[:100]}). 서버가 아직 떠 있는지 확인한다.") from error


def _open(client: OpenAI, model: str, messages: list[Message], sampling: Sampling, complete: bool):
    options = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **sampling.fields()}
    if complete:
        options.setdefault("max_tokens", 100)  # unlike a chat, a completion without a bound ends after 16 tokens
        return client.completions.create(prompt=messages[-1]["content"], **options)
    return client.chat.completions.create(messages=messages, **options)


def _words(chunk, complete: bool) -> str:
    if not chunk.choices:
        return ""
    return (chunk.choices[0].text if complete else chunk.choices[0].delta.content) or ""


def _too_long(error) -> bool:
    return error.code == "context_length_exceeded" or "context length" in str(error.message)  # the second: older vLLM


def side_by_side(first: Iterator[Reply], second: Iterator[Reply]) -> Iterator[tuple[Reply, Reply]]:
    """Two answers as they grow, step by step beside one another; the shorter one waits for the other at its end."""
    answers, left, right = [first, second], Reply(), Reply()
    with contextlib.closing(first), contextlib.closing(second):
        while answers:
            for answer in list(answers):
                part = next(answer, None)
                if part is None:
                    answers.remove(answer)
                elif answer is first:
                    left = part
                else:
                    right = part
            if answers:
                yield left, right


def conversation(system: str | None, history: Sequence[dict[str, Any]], message: str) -> list[Message]:
    """System prompt (where there is one), the exchanges so far as Gradio keeps them, and the new message, as OpenAI's messages."""
    turns = [{"role": turn["role"], "content": _plain(turn["content"])} for turn in history]
    for turn in turns:
        if turn["role"] == "assistant":
            turn["content"] = html.unescape(turn["content"])  # the page keeps answers escaped
    system = (system or "").strip()  # None: the fold with the system prompt has never been opened
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, *turns, {"role": "user", "content": message}]


def _plain(content: Any) -> str:
    """Gradio keeps a message as text or as a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content)


def token_view(answer: Reply, segmenter: Segmenter | None = None) -> str:
    """HTML: the answer's tokens as chips, and what they cost. Without a tokenizer, the pieces that the server sent."""
    pieces = segmenter.pieces(answer.text) if segmenter and answer.text else answer.pieces
    shown = display.chips(pieces, "토큰" if segmenter else "서버가 보낸 조각")._repr_html_()
    facts = [f"첫 조각까지 {answer.first:.2f}초, 모두 {answer.seconds:.2f}초"]
    if answer.written:
        decoding = answer.seconds - answer.first
        facts.append(f"읽은 토큰 {answer.read}개, 쓴 토큰 {answer.written}개")
        if answer.written > 1 and decoding > 0:
            facts.append(f"첫 조각 뒤로 초당 {(answer.written - 1) / decoding:,.0f}개")
    if answer.forgotten:
        facts.append(f"문맥이 차서 앞의 메시지 {answer.forgotten}개를 잊었다")
    return f'<div id="token-view">{shown}<p>{html.escape(". ".join(facts))}.</p></div>'


def connect(url: str, model: str | None = None, key: str = "none", timeout: float = 120.0) -> tuple[OpenAI, str]:
    """A client for `url`, and the model to ask for: the one named, or the first that the server lists."""
    import openai

    if not url.startswith(("http://", "https://")):
        raise WorkshopError(f"주소 '{url}'이(가) http://나 https://로 시작하지 않는다. 예: http://127.0.0.1:8000/v1")
    client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)
    try:
        listed = [card.id for card in client.models.list().data or []]
    except openai.APIStatusError as error:
        if not model:
            raise WorkshopError(f"서버 {url}가 모델 목록을 주지 않는다({error.status_code}). --model로 이름을 적는다.") from error
        return client, model
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # no server, or one of another kind
        raise WorkshopError(f"서버 {url}에 연결할 수 없다. 서버가 떠 있는지, 주소가 /v1로 끝나는지 확인한다.") from error
    if model and listed and model not in listed:
        raise WorkshopError(f"서버 {url}에 모델 '{model}'이(가) 없다. 있는 모델: {', '.join(listed[:10])}")
    if not (model or listed):
        raise WorkshopError(f"서버 {url}가 알리는 모델이 없다. --model로 이름을 적는다.")
    return client, model or listed[0]
