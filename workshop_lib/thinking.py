"""A budget for thinking: the answer of a reasoning model in two phases, through any server that speaks OpenAI's protocol.

A reasoning model writes `<think> … </think>` and then its answer. Cut at max_tokens in the middle of the thought, it has said nothing.
So the thought gets a budget of its own (Nemotron Nano 2, arXiv 2508.14444): phase 1 lets the model think until it closes the thought
or the budget is spent; phase 2 closes the thought and asks for the answer with the tokens that are left.

Notable choices
- Tokens are counted by the server (`usage`), never by encoding the text again: text → tokens → text may change their number.
- max_tokens bounds what the model writes in both phases together, so phase 2 asks for the remainder.
- Both phases go through /v1/completions, with the chat rendered here: only so can an answer that has begun be continued.
- The caller's messages are read, never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError
from workshop_lib.tokenization import render_chat

if TYPE_CHECKING:
    from openai import OpenAI

OPEN, CLOSE = "<think>", "</think>"
SWITCH = {True: "detailed thinking on", False: "detailed thinking off"}  # the words of Llama-Nemotron's system prompt
Messages = Sequence[Mapping[str, str]]


def remaining(max_tokens: int, used: int, context: int | None = None, read: int = 0) -> int:
    """Tokens that are left for the answer.

    max_tokens: bound on all that the model writes; used: what it has written in phase 1 (`usage.completion_tokens`), which may be less
    than the budget. context: the model's longest text, if it is known; read: tokens of phase 2's prompt, in which the thought stands
    already. Never below 0.
    """
    left = max_tokens - used
    if context is not None:
        left = min(left, context - read)
    return max(0, left)


def with_thinking(messages: Messages, on: bool = True) -> list[dict[str, str]]:
    """A copy of the messages whose system message says whether to think; a switch that stands there already is replaced."""
    copied = [dict(message) for message in messages]
    if not copied or copied[0]["role"] != "system":
        return [{"role": "system", "content": SWITCH[on]}, *copied]
    lines = [line for line in copied[0]["content"].split("\n") if line.strip() not in SWITCH.values()]
    return [{"role": "system", "content": "\n".join([SWITCH[on], *lines]).strip()}, *copied[1:]]


@dataclass(frozen=True)
class Budgeted:
    """A thought and the answer after it, with what they cost as the server counted it.

    `cut`: the thought was still going on when the budget was spent. `finish`: "stop", or "length" where the answer had no room.
    """

    thought: str
    answer: str
    thought_tokens: int
    answer_tokens: int
    cut: bool
    finish: str


def budgeted_answer(
    client: OpenAI,
    model: str,
    messages: Messages,
    budget: int,
    max_tokens: int,
    *,
    context: int | None = None,
    stop: str | Sequence[str] = (),
    render: Callable[..., str] = render_chat,
    **sampling,
) -> Budgeted:
    """The model's answer after at most `budget` tokens of thought; thought and answer together are at most `max_tokens` tokens.

    budget 0: no thought at all (phase 1 is left out and an empty thought stands before the answer). context: the model's longest text;
    given, phase 2 asks for no more than still fits. stop: where the answer ends; the thought ends at </think> only.
    render(messages, add_generation_prompt=True) → text: the model's chat template. sampling: temperature, top_p, seed, …
    Raises WorkshopError for a negative budget or a max_tokens below 1; what the server refuses is raised by the client.
    """
    if budget < 0 or max_tokens < 1:
        raise WorkshopError(f"사고 예산은 0 이상, max_tokens는 1 이상이어야 한다. 받은 값: 예산 {budget}, max_tokens {max_tokens}")
    prompt = render(list(messages), add_generation_prompt=True) + OPEN
    thought, used, read, cut = "", 0, 0, False
    if first := min(budget, max_tokens):
        thinking = client.completions.create(model=model, prompt=prompt, max_tokens=first, stop=[CLOSE], **sampling)
        thought, used = thinking.choices[0].text, thinking.usage.completion_tokens
        read, cut = thinking.usage.prompt_tokens + used, thinking.choices[0].finish_reason == "length"
    prompt += thought + CLOSE
    if context is not None:
        read = _count(client, model, prompt) if not read else read + _count(client, model, CLOSE)
    left = remaining(max_tokens, used, context, read)
    if not left:
        return Budgeted(thought, "", used, 0, cut, "length")
    ends = {"stop": stop} if stop else {}
    said = client.completions.create(model=model, prompt=prompt, max_tokens=left, **ends, **sampling)
    return Budgeted(thought, said.choices[0].text, used, said.usage.completion_tokens, cut, said.choices[0].finish_reason)


def _count(client: OpenAI, model: str, text: str) -> int:
    """How many tokens the server sees in a text: the usage of a request for one token."""
    return client.completions.create(model=model, prompt=text, max_tokens=1, temperature=0).usage.prompt_tokens
