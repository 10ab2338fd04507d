"""The protocol of OpenAI, as far as `workshop serve` speaks it: a request's JSON becomes an `Order`, an answer becomes JSON.

Notable choices
- What a request asks for and the server cannot do is refused by name (400), never ignored: an answer without the tools or the penalty
  that were asked for would be another answer.
- max_tokens left out means 16 for completions, as at OpenAI, and what the context has room for in a chat.
- `preferences.encode_prompt` is the one place that knows what a conversation looks like to the model. It takes a message's content for
  text: a mark of the chat template that is written in it is no mark. /v1/completions takes a prompt with its marks, as at vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workshop_lib.engine import Engine, Ticket
    from workshop_lib.row_decoding import Sampling

MOST_STOPS = 4
CLIENT_GONE = 499  # nginx's number, for the metrics; nobody receives it


# --- what is asked ------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Becomes an error response in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.headers = status, {"Retry-After": "1"} if status in (429, 503) else {}
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


# Asked for with its neutral value, an ability that the server lacks makes no difference.
NEUTRAL: dict[str, tuple] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False, 0), "top_logprobs": (0,), "best_of": (1,),
    "echo": (False,), "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none",),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip
WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "stream_options",
}  # fmt: skip
COMMON = {"model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "n", "ignore_eos"}


@dataclass(frozen=True)
class Order:
    """A checked request: prompts as token ids, and how to continue them. `max_tokens` None: as many as fit."""

    prompts: list[list[int]]
    max_tokens: int | None
    sampling: Sampling
    seed: int | None
    stop: tuple[str, ...]
    n: int
    stream: bool
    usage_at_end: bool
    ignore_end: bool


def parse(body: Any, chat: bool, model: str, engine: Engine) -> Order:
    """An `Order` from the JSON of a request. Raises Refused with 400, or 404 for a model that is not served here."""
    from workshop_lib.row_decoding import Sampling

    if not isinstance(body, dict):
        raise Refused(400, "본문은 JSON 객체여야 한다.")
    own = {"messages", "max_completion_tokens"} if chat else {"prompt"}
    for name in body.keys() - COMMON - own - WITHOUT_EFFECT:
        if name not in NEUTRAL:
            raise Refused(400, f"모르는 항목 '{name}'이(가) 있다. 철자를 확인한다.", name, "unknown_parameter")
        if body[name] is not None and body[name] not in NEUTRAL[name]:
            raise Refused(400, f"이 서버에는 '{name}' 기능이 없다. 항목을 지운다.", name, "unsupported_parameter")
    if not isinstance(body.get("model"), str):
        raise Refused(400, "model에 모델 이름을 문자열로 넣는다.", "model")
    if body["model"] != model:
        raise Refused(404, f"'{body['model'][:100]}' 모델은 없다. 이 서버의 모델은 '{model}'이다.", "model", "model_not_found")

    stop = body.get("stop")
    stop = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, (list, tuple)) or len(stop) > MOST_STOPS or not all(isinstance(text, str) and text for text in stop):
        raise Refused(400, f"stop은 빈 문자열이 아닌 문자열 또는 그런 문자열 {MOST_STOPS}개까지의 목록이다.", "stop")
    length = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refused(400, "stream_options는 JSON 객체여야 한다.", "stream_options")
    return Order(
        prompts=[_chat_ids(body.get("messages"), engine)] if chat else _prompt_ids(body.get("prompt"), engine),
        max_tokens=_whole(body, length, None if chat else 16, 1, 10**9),
        sampling=Sampling(_number(body, "temperature", 1.0, 0, 2), _number(body, "top_p", 1.0, 0, 1, open_below=True),
                          _whole(body, "top_k", None, 1, 10**9)),
        seed=_whole(body, "seed", None, -(2**63), 2**63 - 1),
        stop=tuple(stop),
        n=_whole(body, "n", 1, 1, engine.max_batch),
        stream=_flag(body, "stream"),
        usage_at_end=_flag(options, "include_usage"),
        ignore_end=_flag(body, "ignore_eos"),
    )  # fmt: skip


def _number(body: dict, name: str, default: float, low: float, high: float, open_below: bool = False) -> float:
    value = body.get(name)
    if value is None:
        return default
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high or (open_below and value == low):
        bounds = f"{low} 초과 {high} 이하" if open_below else f"{low} 이상 {high} 이하"
        raise Refused(400, f"{name}은(는) {bounds}의 수여야 한다. 받은 값: {str(value)[:50]}", name)
    return float(value)


def _whole(body: dict, name: str, default: int | None, low: int, high: int | None = None) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        bounds = f"{low} 이상" if high is None else f"{low} 이상 {high} 이하"
        raise Refused(400, f"{name}은(는) {bounds}의 정수여야 한다. 받은 값: {str(value)[:50]}", name)
    return value


def _flag(body: dict, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{name}은(는) true 또는 false여야 한다. 받은 값: {str(value)[:50]}", name)
    return bool(value)


def _prompt_ids(prompt: Any, engine: Engine) -> list[list[int]]:
    """One or several prompts, as text or as token ids. A text begins a document (<s>) unless it says so itself."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(_is_id(item) for item in prompt)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise Refused(400, "prompt에 문자열이나 토큰 번호의 목록을 넣는다.", "prompt")
    if len(prompt) > engine.max_batch:
        raise Refused(400, f"prompt는 한 번에 {engine.max_batch}개까지 받는다. 받은 수: {len(prompt)}", "prompt")
    prompts = []
    for item in prompt:
        if isinstance(item, str):
            ids, first = _read(partial(engine.encode, item), "prompt"), engine.tokenizer.bos_token_id
            prompts.append(ids if first is None or ids[:1] == [first] else [first, *ids])
        elif isinstance(item, list) and item and all(_is_id(number) for number in item):
            prompts.append(item)
        else:
            raise Refused(400, "prompt의 항목은 문자열이나 토큰 번호의 목록이어야 한다.", "prompt")
    return prompts


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read(encode: Callable[[], list[int]], param: str) -> list[int]:
    from workshop_lib.engine import TooLong

    try:
        return encode()
    except TooLong as error:
        raise Refused(400, str(error), param, "context_length_exceeded") from error
    except (UnicodeEncodeError, TypeError) as error:  # a lone half of a surrogate pair ("\ud800") is valid JSON, but no text
        raise Refused(400, f"{param}에 글자가 아닌 유니코드 값이 있다.", param) from error


def _chat_ids(messages: Any, engine: Engine) -> list[int]:
    from workshop_lib.preferences import encode_prompt

    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages에 대화를 넣는다: [{\"role\": \"user\", \"content\": \"…\"}]", "messages")
    plain = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where}은(는) role과 content가 있는 JSON 객체여야 한다.", where)
        if message.get("role") not in ("system", "user", "assistant"):
            said = str(message.get("role"))[:50]
            raise Refused(400, f"{where}의 role '{said}'을(를) 모른다. system, user, assistant 가운데 하나를 쓴다.", f"{where}.role")
        content = message.get("content")
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
            if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
                raise Refused(400, f"{where}: 글(text)만 읽을 수 있다. 그림이나 소리는 받지 않는다.", f"{where}.content")
            content = "".join(texts)
        if not isinstance(content, str):
            raise Refused(400, f"{where}의 content는 문자열이어야 한다.", f"{where}.content")
        plain.append({"role": message["role"], "content": content})
    if not engine.tokenizer.chat_template:
        raise Refused(400, "이 모델에는 대화 템플릿이 없다. /v1/completions를 쓴다.", "messages")

    def encode() -> list[int]:
        engine.check_length("".join(message["content"] for message in plain))
        return encode_prompt(plain, engine.tokenizer)

    return _read(encode, "messages")


# --- what is answered ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The JSON of one answer: /v1/completions and /v1/chat/completions differ in names only."""

    chat: bool
    model: str
    identity: str
    created: int

    def whole(self, texts: list[str], finishes: list[str], usage: dict[str, int]) -> dict:
        """The body of an answer that leaves as a whole: a choice a text."""
        choices = []
        for index, (text, finish) in enumerate(zip(texts, finishes)):
            said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": finish})
        return self._envelope("chat.completion" if self.chat else "text_completion", choices) | {"usage": usage}

    def part(self, index: int, text: str, finish: str | None, opening: bool = False) -> dict:
        """A chunk of a stream: a piece of choice `index`, or its opening, which names the role in a chat."""
        if self.chat:
            delta = {"role": "assistant", "content": ""} if opening else {"content": text} if text else {}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        else:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return self._envelope("chat.completion.chunk" if self.chat else "text_completion", [choice])

    def last(self, usage: dict[str, int]) -> dict:
        """The chunk without a choice that ends a stream with the usage, where it was asked for."""
        return self._envelope("chat.completion.chunk" if self.chat else "text_completion", []) | {"usage": usage}

    def _envelope(self, kind: str, choices: list) -> dict:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def count_usage(tickets: Sequence[Ticket], prompts: int) -> dict[str, int]:
    """Tokens read and written. `prompts`: how many different ones there were."""
    asked = sum(len(ticket.ids) for ticket in tickets[:: max(1, len(tickets) // prompts)])  # n answers to a prompt count it once
    written = sum(len(ticket.tokens) for ticket in tickets)
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def failure(finish: str | None, timeout: float) -> Refused | None:
    """What becomes of an answer that did not come to a regular end."""
    return {
        "timeout": Refused(504, f"{timeout:g}초 안에 답을 다 쓰지 못했다. max_tokens를 줄이거나 --timeout을 늘린다.", code="timeout"),
        "closed": Refused(503, "서버가 멈추는 중이다.", code="shutting_down"),
        "error": Refused(500, "모델이 답을 계산하지 못했다. 서버의 기록을 본다.", code="internal_error"),
        "cancelled": Refused(CLIENT_GONE, "요청한 쪽이 떠났다."),
    }.get(finish)
