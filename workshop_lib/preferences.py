"""Week 9: preference pairs and conversations: read, checked row by row, and turned into the tokens that a loss is computed on.

A pair is a conversation that ends with the user's words, an answer that is preferred and one that is not. The formats of TRL are taken:

    {"prompt": "…", "chosen": "…", "rejected": "…"}                                 plain: the prompt is one user message
    {"prompt": [messages], "chosen": [assistant], "rejected": [assistant]}          conversational
    {"chosen": [messages, assistant], "rejected": [messages, assistant]}            the same with an implicit prompt

Notable choices
- Nothing is lost in silence: a row that cannot be used is an error with its number, all of them named at once, or stands in the list
  of `Skip`s that the caller gave, so that rows read = pairs + skips. Other columns of a row come along in `Pair.extra`.
- Text becomes tokens through the tokenizer's chat template (`tokenization.CHAT_TEMPLATE`) and nowhere else. In what is learned from, a
  content that holds one of the template's own marks is refused: it would end the message, or speak as someone else. In what a model is
  asked (`encode_prompt`), it is spelled out as any other text.
- Prompt and answers are encoded apart: the marks are single tokens, so nothing merges across the border, and an earlier answer of the
  assistant in the prompt is not learned from in a pair (in `encode_chat` it is).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workshop_lib import WorkshopError
from workshop_lib.corpora import dialogue, load
from workshop_lib.corpora.reading import INVISIBLE, Skip, read_json_array, read_json_lines
from workshop_lib.tokenization import NOT_SPECIAL, SPECIAL_TOKENS, render_chat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
ROLES = ("system", "user", "assistant")
MARKS = tuple(token for token in SPECIAL_TOKENS if token not in NOT_SPECIAL)
LISTED = 10  # bad rows that an error message names


@dataclass(frozen=True)
class Pair:
    """prompt: messages {"role", "content"}, the last one the user's; chosen, rejected: what the assistant answers.

    axis: what the two differ in ("" if unknown); extra: the row's other columns.
    """

    prompt: tuple[dict[str, str], ...]
    chosen: str
    rejected: str
    axis: str = ""
    extra: dict = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- reading


def read_pairs(
    source: Path | str | Iterable[Mapping],
    tokenizer: PreTrainedTokenizerBase | None = None,
    context: int | None = None,
    skipped: list[Skip] | None = None,
) -> list[Pair]:
    """Pairs from a .jsonl or .json file, or from rows (a list, a `datasets.Dataset`), in their order.

    With a tokenizer, prompt and longer answer together must fit into `context` tokens (default: what the tokenizer says that the model
    reads). Where `skipped` is given, rows that cannot be used are put there; else they raise.
    Raises WorkshopError naming the first ten bad rows and why; for a source without rows; for a file of another format.
    """
    broken: list[Skip] = []
    path, unit, numbered = _rows(source, broken)
    pairs, read = [], 0
    for number, row in numbered:
        read += 1
        try:
            pair = as_pair(row)
            if tokenizer is not None:
                _check_length(pair, tokenizer, context or tokenizer.model_max_length)
        except WorkshopError as error:
            broken.append(Skip(path, number, str(error)))
        else:
            pairs.append(pair)
    if not read and not broken:
        raise WorkshopError(f"{path}: 선호 쌍이 한 줄도 없다. 자료를 확인한다.")
    broken.sort(key=lambda skip: skip.line)
    if skipped is not None:
        skipped.extend(broken)
    elif broken:
        raise WorkshopError(_complaint(path, unit, broken))
    return pairs


def _rows(source: Path | str | Iterable[Mapping], broken: list[Skip]) -> tuple[Path, str, Iterable[tuple[int, object]]]:
    """(name for messages, what its rows are called, numbered rows)"""
    if not isinstance(source, Path | str):
        return Path("선호 자료"), "행", enumerate(source, start=1)
    path = Path(source)
    if path.suffix == ".jsonl":
        return path, "줄", read_json_lines(path, broken)
    if path.suffix == ".json":
        return path, "항목", enumerate(read_json_array(path), start=1)
    raise WorkshopError(f"{path}: 선호 쌍으로 읽을 수 없는 형식이다. .jsonl이나 .json으로 준다.")


def _complaint(path: Path, unit: str, broken: Sequence[Skip]) -> str:
    lines = [f"{path}: 쓸 수 없는 {unit}이 {len(broken):,}개 있다. 고치거나 지운다."]
    lines += [f"  {skip.line}번째 {unit}: {skip.reason}" for skip in broken[:LISTED]]
    if len(broken) > LISTED:
        lines.append(f"  그 밖에 {len(broken) - LISTED:,}개")
    return "\n".join(lines)


def as_pair(row: object) -> Pair:
    """One row of any of the formats as a `Pair`. Raises WorkshopError that says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise WorkshopError(f"행이 객체가 아니라 {type(row).__name__}이다. prompt, chosen, rejected가 있는 객체로 적는다")
    if missing := [key for key in ("chosen", "rejected") if row.get(key) is None]:
        raise WorkshopError(f"{', '.join(missing)}이(가) 없다. 있는 것은 {', '.join(map(str, row)) or '하나도 없다'}")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None or (isinstance(prompt, str) and isinstance(chosen, list) and isinstance(rejected, list)):
        prompt, chosen, rejected = _explicit(prompt, chosen, rejected)
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = _checked_messages("prompt", prompt)
    if messages[-1]["role"] != "user":
        raise WorkshopError(f"prompt가 user가 아니라 {messages[-1]['role']}의 말로 끝난다. 답할 차례는 assistant여야 한다")
    chosen, rejected = _answer("chosen", chosen), _answer("rejected", rejected)
    if chosen.strip(INVISIBLE) == rejected.strip(INVISIBLE):
        raise WorkshopError(f"chosen과 rejected가 같다({_short(chosen)}). 무엇이 나은지 알 수 없다")
    extra = {key: value for key, value in row.items() if key not in ("prompt", "chosen", "rejected", "axis")}
    return Pair(tuple(messages), chosen, rejected, str(row.get("axis") or ""), extra)


def _explicit(prompt: str | None, chosen: object, rejected: object) -> tuple[list, list, list]:
    """The shared beginning of two conversations as their prompt. A prompt given as text beside it must be the user's last words."""
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise WorkshopError("prompt가 없다. chosen과 rejected가 글이면 prompt도 적고, 대화(메시지 목록)이면 앞부분이 같아야 한다")
    if chosen == rejected:
        raise WorkshopError("chosen과 rejected가 같은 대화이다. 무엇이 나은지 알 수 없다")
    shared = [first for first, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected))]
    if not shared:
        raise WorkshopError("prompt가 없고, chosen과 rejected가 함께 시작하는 말도 없다. prompt를 적는다")
    last = shared[-1].get("content") if isinstance(shared[-1], Mapping) else None
    if prompt is not None and prompt != last:
        raise WorkshopError(f"prompt({_short(prompt)})가 chosen과 rejected의 대화에 있는 질문({_short(last)})과 다르다")
    return shared, chosen[len(shared):], rejected[len(shared):]  # fmt: skip


def _checked_messages(name: str, messages: object) -> list[dict[str, str]]:
    if not isinstance(messages, list | tuple):
        raise WorkshopError(f'{name}의 자료형이 {type(messages).__name__}이다. 글이나 [{{"role": "user", "content": "…"}}]로 적는다')
    if not messages:
        raise WorkshopError(f"{name}에 말이 하나도 없다")
    checked = []
    for place, message in enumerate(messages, start=1):
        where = f"{name}의 {place}번째 말"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise WorkshopError(f"{where}에 role과 content가 없다({_short(message)})")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise WorkshopError(f"{where}의 role '{role}'을(를) 모른다. {', '.join(ROLES)} 가운데 하나를 쓴다")
        checked.append({"role": role, "content": _checked_text(where, content)})
    return checked


def _checked_text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise WorkshopError(f"{name}의 글이 문자열이 아니라 {type(text).__name__}이다")
    if not text.strip(INVISIBLE):
        raise WorkshopError(f"{name}의 글이 비었다")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise WorkshopError(f"{name}의 글에 짝이 없는 서러게이트 문자가 있다")
    if marks := [mark for mark in MARKS if mark in text]:
        raise WorkshopError(f"{name}의 글에 대화 템플릿의 표시 {', '.join(marks)}이(가) 있다. 템플릿을 입히기 전의 글을 준다")
    return text


def _answer(name: str, answer: object) -> str:
    if isinstance(answer, str):
        return _checked_text(name, answer)
    messages = _checked_messages(name, answer)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        said = ", ".join(message["role"] for message in messages)
        raise WorkshopError(f"{name}은(는) assistant의 말 하나여야 하는데 {said}이다")
    return messages[0]["content"]


def _check_length(pair: Pair, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    prompt, chosen, rejected = encode_pair(pair, tokenizer)
    longer = max(len(chosen), len(rejected))
    if len(prompt) >= context:
        raise WorkshopError(f"prompt가 {len(prompt)}토큰이라 문맥 {context}토큰에 답이 들어갈 자리가 없다")
    if len(prompt) + longer > context:
        raise WorkshopError(f"prompt {len(prompt)}토큰과 긴 쪽 답 {longer}토큰이 문맥 {context}토큰을 넘는다")


def _short(value: object, most: int = 30) -> str:
    text = " ".join(str(value).split())
    return f"'{text if len(text) <= most else text[: most - 1] + '…'}'"


# ---------------------------------------------------------------------------------------------- the course's own


def bundled(count: int, seed: int = 0, split: str = "train") -> list[Pair]:
    """Pairs of the help desk's micro-world (`dialogue.preferences`), the axes polite, on_topic, safe in turn.

    The split is by combination: no question of "validation" stands in "train".
    """
    return read_pairs(dialogue.preferences(count, seed, split))


def written() -> list[Pair]:
    """The course's hand-written pairs about everything, in the same three axes."""
    return read_pairs(load("preferences"))


def to_trl(pairs: Iterable[Pair]) -> list[dict]:
    """Rows in TRL's conversational format, as its trainers and `read_pairs` take them."""
    return [
        pair.extra
        | {
            "prompt": [dict(message) for message in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "axis": pair.axis,
        }
        for pair in pairs
    ]


# ---------------------------------------------------------------------------------------------- tokens


def loss_mask(messages: Messages, encode: Callable[[str], list[int]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and, for each, 1 if it is learned from: the assistant's words and the <|end|> after them.

    `encode_chat` in plain Python, to be read: an answer begins where the text ends that asks for it.
    encode: text -> ids, with every mark of the template a token of its own.
    """
    ids = encode(render_chat(messages))
    mask = [0] * len(ids)
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            start = len(encode(render_chat(messages[:place], add_generation_prompt=True)))
            end = len(encode(render_chat(messages[: place + 1])))
            mask[start:end] = [1] * (end - start)
    return ids, mask


def encode_chat(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """(ids, mask) of a conversation by the tokenizer's own template; the mask is 1 on all that the assistant says, each with its <|end|>.

    Raises WorkshopError for an unknown role, an empty content, or one that holds a mark of the template, and for a template that
    does not say where the assistant's words begin and end.
    """
    checked = _checked_messages("대화", list(messages))
    both = tokenizer.apply_chat_template(checked, return_dict=True, return_assistant_tokens_mask=True)
    if not any(both["assistant_masks"]) and any(message["role"] == "assistant" for message in checked):
        raise WorkshopError("이 토크나이저의 대화 템플릿에는 {% generation %} 표시가 없어 배울 토큰을 알 수 없다. 3주차 토크나이저를 쓴다.")
    return both["input_ids"], both["assistant_masks"]


def encode_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a conversation up to and with the opening <|assistant|>. What stands in a content is text, and nothing but text:
    a `<|end|>` that somebody wrote is read as seven characters, so that nobody can end a message or speak as another from within it.

    Only the tokenizer's special tokens are meant; `<think>` is a part of the text (`tokenization.NOT_SPECIAL`).
    """
    contents = [message["content"] for message in messages]
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(mark in content for mark in marks for content in contents):
        return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    # The template is rendered around stand-ins, which no content holds; then each part is encoded as what it is.
    stand_in = next(chr(code) for code in range(0xE000, 0xF900) if not any(chr(code) in content for content in contents))
    hidden = [{**message, "content": f"{stand_in}{place}{stand_in}"} for place, message in enumerate(messages)]
    rendered = tokenizer.apply_chat_template(hidden, tokenize=False, add_generation_prompt=True)
    ids: list[int] = []
    for place, part in enumerate(re.split(f"{stand_in}([0-9]+){stand_in}", rendered)):
        written = place % 2 == 1  # by a person, not by the template
        text = contents[int(part)] if written else part
        if text:
            ids += tokenizer(text, add_special_tokens=False, split_special_tokens=written, verbose=False)["input_ids"]
    return ids


class EncodedPair(NamedTuple):
    """Token ids of the prompt with the opening <|assistant|>, and of both answers with their <|end|>."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def encode_pair(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> EncodedPair:
    """Tokens of a pair by the tokenizer's chat template; the same that TRL's DPOTrainer makes of it."""
    prompt = tokenizer.apply_chat_template(list(pair.prompt), add_generation_prompt=True, return_dict=False)
    answers = []
    for text in (pair.chosen, pair.rejected):
        whole = [*pair.prompt, {"role": "assistant", "content": text}]
        answers.append(tokenizer.apply_chat_template(whole, return_dict=False)[len(prompt):])  # fmt: skip
    return EncodedPair(prompt, *answers)


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths as one tensor (rows, longest), filled at the right."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def pair_batch(pairs: Sequence[EncodedPair], pad: int) -> dict[str, Tensor]:
    """One batch for a preference loss, laid out as TRL does: the chosen answers first, then the rejected, (2 * pairs, longest).

    input_ids; attention_mask, 1 on real tokens; completion_mask, 1 on the answer's tokens.
    """
    texts = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    return {
        "input_ids": pad_rows([[*prompt, *answer] for prompt, answer in texts], pad),
        "attention_mask": pad_rows([[1] * (len(prompt) + len(answer)) for prompt, answer in texts], 0),
        "completion_mask": pad_rows([[0] * len(prompt) + [1] * len(answer) for prompt, answer in texts], 0),
    }


def chat_batch(chats: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int) -> dict[str, Tensor]:
    """One batch for SFT from (ids, mask) of conversations: input_ids, attention_mask, completion_mask, each (chats, longest)."""
    return {
        "input_ids": pad_rows([ids for ids, _ in chats], pad),
        "attention_mask": pad_rows([[1] * len(ids) for ids, _ in chats], 0),
        "completion_mask": pad_rows([mask for _, mask in chats], 0),
    }
