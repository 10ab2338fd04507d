"""Constrained decoding: the model chooses, but only among tokens after which the output can still become what was asked for.

A grammar reads bytes, one at a time: `step(state, byte)` is the next state, or None where the byte is not allowed; `closing(state)`
is the shortest way to finish (empty where the text is complete). `write` walks the tokenizer's vocabulary, laid out as a tree of
bytes, along with the grammar, and masks every token that leaves it. Nothing is asked of the model: from random weights comes valid
JSON too, only meaningless (Willard & Louf 2023 do the same for regular expressions).

Notable choices
- Bytes, not characters: a token of a byte-level tokenizer may hold a third of a Korean character.
- A token is allowed only if the shortest closing still fits in the tokens that are left: the output is complete, never cut off.
- JSON is written without \\u escapes (any character can be written as itself) and with numbers of at most 15 digits.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.decoding import Continuation, Reader, next_probabilities

# --- grammars over bytes --------------------------------------------------------------------------------------------------


class Grammar(Protocol):
    """What is allowed. States are hashable; `closing(step(state, closing(state)[0])) == closing(state)[1:]` (tests hold it)."""

    start: Hashable

    def step(self, state: Hashable, byte: int) -> Hashable | None:
        """The state after one more byte; None where it is not allowed."""

    def closing(self, state: Hashable) -> bytes:
        """The shortest continuation that completes the text; b"" where it is complete."""


class Choice:
    """One of the given texts. A state is what has been written so far."""

    def __init__(self, choices: Sequence[str]):
        if not choices or "" in choices:
            raise WorkshopError(f"고를 글이 하나 이상 있어야 하고 빈 글은 안 된다. 받은 값: {list(choices)!r}")
        self.start = b""
        self._choices = sorted({choice.encode("utf-8") for choice in choices}, key=lambda choice: (len(choice), choice))

    def step(self, state: bytes, byte: int) -> bytes | None:
        longer = state + bytes([byte])
        return longer if any(choice.startswith(longer) for choice in self._choices) else None

    def closing(self, state: bytes) -> bytes:
        return next(choice for choice in self._choices if choice.startswith(state))[len(state) :]


# UTF-8 (Unicode 15, table 3-7): the first byte of a character decides how many follow, and within which bounds the second lies.
def _character(byte: int) -> tuple[int, int, int] | None:
    """(bytes that follow, lowest and highest value of the next); None if no character begins so."""
    if byte < 0x80:
        return 0, 0, 0
    if 0xC2 <= byte <= 0xDF:
        return 1, 0x80, 0xBF
    if 0xE0 <= byte <= 0xEF:
        return 2, 0xA0 if byte == 0xE0 else 0x80, 0x9F if byte == 0xED else 0xBF  # 0xED A0…: surrogates
    if 0xF0 <= byte <= 0xF4:
        return 3, 0x90 if byte == 0xF0 else 0x80, 0x8F if byte == 0xF4 else 0xBF
    return None


class String:
    """The inside of a JSON string, without its quotation marks, of at most `longest` characters.

    A state is (characters, what is open): () between characters, ("\\\\",) after a backslash, (following, low, high) within one.
    """

    def __init__(self, longest: int = 10_000):
        self.start = (0, ())
        self._longest = longest

    def step(self, state: tuple, byte: int) -> tuple | None:
        count, open_ = state
        if open_ == ("\\",):
            return (count, ()) if byte in b'"\\/bfnrt' else None
        if open_:
            following, low, high = open_
            if not low <= byte <= high:
                return None
            return count, (following - 1, 0x80, 0xBF) if following > 1 else ()
        found = _character(byte)
        if found is None or byte < 0x20 or byte in b'"\x7f' or count >= self._longest:
            return None
        if byte == ord("\\"):
            return count + 1, ("\\",)
        return count + 1, found if found[0] else ()

    def closing(self, state: tuple) -> bytes:
        open_ = state[1]
        if open_ == ("\\",):
            return b"n"
        return bytes([open_[1]]) + b"\x80" * (open_[0] - 1) if open_ else b""


class Json:
    """Any JSON value. A state is (open brackets, place, rest): a pushdown automaton, the stack being the open brackets."""

    _LITERALS = {ord("t"): b"rue", ord("f"): b"alse", ord("n"): b"ull"}
    _DIGITS = 15  # of whole part, fraction: what a double holds for certain, and no integer too long for Python to read
    _CLOSE = {"{": b"}", "[": b"]"}

    def __init__(self):
        self.start = ("", "value", None)
        self._string = String()

    def step(self, state: tuple, byte: int) -> tuple | None:
        stack, place, rest = state
        if place in ("string", "name"):
            if byte == ord('"') and rest[1] == ():
                return (stack, "after", None) if place == "string" else (stack, "colon", None)
            inner = self._string.step(rest, byte)
            return None if inner is None else (stack, place, (0, inner[1]))  # any length: the number of characters is not kept
        if place == "literal":
            return _next_literal(stack, rest, byte)
        if place == "number":
            longer = _number_step(rest, byte)
            if longer is not None:
                return stack, "number", longer
            if not _number_complete(rest):
                return None
            place = "after"  # the byte ends the number and belongs to what follows
        if place == "after":
            return self._after(stack, byte)
        if byte == ord(" "):
            return None if rest == "space" else (stack, place, "space")  # one space at most
        if place == "colon":
            return (stack, "value", None) if byte == ord(":") else None
        if place in ("first name", "next name") and byte == ord('"'):
            return stack, "name", self._string.start
        if place == "first name" and byte == ord("}") or place == "first item" and byte == ord("]"):
            return stack[:-1], "after", None
        return self._value(stack, byte) if place in ("value", "first item") else None

    def _after(self, stack: str, byte: int) -> tuple | None:
        if not stack:
            return None
        if byte == ord(","):
            return (stack, "next name", None) if stack[-1] == "{" else (stack, "value", None)
        return (stack[:-1], "after", None) if bytes([byte]) == self._CLOSE[stack[-1]] else None

    def _value(self, stack: str, byte: int) -> tuple | None:
        if byte == ord('"'):
            return stack, "string", self._string.start
        if byte == ord("{"):
            return stack + "{", "first name", None
        if byte == ord("["):
            return stack + "[", "first item", None
        if byte in self._LITERALS:
            return stack, "literal", self._LITERALS[byte]
        number = _number_step("", byte)
        return None if number is None else (stack, "number", number)

    def closing(self, state: tuple) -> bytes:
        stack, place, rest = state
        brackets = b"".join(self._CLOSE[bracket] for bracket in reversed(stack))
        here = {"value": b"0", "colon": b":0", "next name": b'"":0', "first name": b"", "first item": b"", "after": b"", "literal": rest}
        if place in ("string", "name"):
            return self._string.closing(rest) + b'"' + (b":0" if place == "name" else b"") + brackets
        if place == "number":
            return (b"" if _number_complete(rest) else b"0") + brackets
        return here[place] + brackets


def _next_literal(stack: str, rest: bytes, byte: int) -> tuple | None:
    if byte != rest[0]:
        return None
    return (stack, "literal", rest[1:]) if len(rest) > 1 else (stack, "after", None)


def _number_step(number: str, byte: int) -> str | None:
    """A number so far as its shape: '-' sign, '0' a leading zero, 'd' digits, '.' 'f' fraction, 'e' '+' 'x' exponent."""
    digit, last = ord("0") <= byte <= ord("9"), number[-1:]
    if number in ("", "-"):
        if digit:
            return number + ("0" if byte == ord("0") else "d")
        return "-" if byte == ord("-") and not number else None
    if digit:
        if last == "0" or last in "dfx" and number.count(last) >= (2 if last == "x" else Json._DIGITS):
            return None
        return number + {"d": "d", ".": "f", "f": "f", "e": "x", "+": "x", "x": "x"}[last]
    if byte == ord(".") and last in "0d":
        return number + "."
    if byte in b"eE" and last in "0df":
        return number + "e"
    return number + "+" if byte in b"+-" and last == "e" else None


def _number_complete(number: str) -> bool:
    return number[-1] in "0dfx"


class Chain:
    """One grammar after another: state (which, its state). A part goes on as long as it can; where it cannot, the next begins."""

    def __init__(self, parts: Sequence[Grammar]):
        self._parts = list(parts)
        self.start = (0, self._parts[0].start)

    def step(self, state: tuple, byte: int) -> tuple | None:
        which, inner = state
        while True:
            found = self._parts[which].step(inner, byte)
            if found is not None:
                return which, found
            if self._parts[which].closing(inner) or which + 1 == len(self._parts):
                return None
            which, inner = which + 1, self._parts[which + 1].start

    def closing(self, state: tuple) -> bytes:
        which, inner = state
        rest = self._parts[which + 1 :]
        return self._parts[which].closing(inner) + b"".join(part.closing(part.start) for part in rest)


def json_object(fields: Mapping[str, Sequence[str] | None], longest: int = 60) -> Chain:
    """A JSON object with exactly these fields in this order: one of the given texts, or (None) any text up to `longest` characters."""
    if not fields:
        raise WorkshopError("JSON 객체에 둘 항목이 하나도 없다.")
    parts: list[Grammar] = []
    for place, (name, choices) in enumerate(fields.items()):
        opening = f"{', ' if place else '{'}{json.dumps(name, ensure_ascii=False)}: "
        parts.append(Choice([opening + ('"' if choices is None else "")]))
        if choices is None:
            parts += [String(longest), Choice(['"'])]
        else:
            parts.append(Choice([json.dumps(choice, ensure_ascii=False) for choice in choices]))
    return Chain([*parts, Choice(["}"])])


# --- the vocabulary as a tree of bytes ------------------------------------------------------------------------------------


@cache
def _byte_of_char() -> dict[str, int]:
    """The inverse of the table by which byte-level BPE writes bytes as visible characters (Radford 2019)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def token_bytes(tokenizer) -> list[bytes | None]:
    """What each token adds to the text, in the order of ids. For byte-level BPE, and for SentencePiece's ▁.

    None for special tokens and others added by hand (<think>), which are no text of the model's own.
    Raises WorkshopError for a tokenizer whose tokens cannot be told from one another as text (WordPiece).
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    kinds = {part.get("type") for part in [decoder, *decoder.get("decoders", [])]}
    added = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    found: list[bytes | None] = []
    for number, token in enumerate(tokens):
        if token is None or number in added:
            found.append(None)
        elif "ByteLevel" in kinds:
            found.append(bytes(_byte_of_char()[char] for char in token))
        elif "ByteFallback" in kinds and token.startswith("<0x") and token.endswith(">"):
            found.append(bytes([int(token[3:-1], 16)]))
        elif kinds & {"ByteFallback", "Metaspace"}:
            found.append(token.replace("▁", " ").encode("utf-8"))
        else:
            raise WorkshopError("이 토크나이저의 토큰은 바이트로 옮길 수 없다. 바이트 단위 BPE나 SentencePiece 토크나이저를 쓴다.")
    return found


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Allowed:
    """Tokens that are allowed in a state: ids (tokens,), states after each, and the tokens that closing takes from there (tokens,)."""

    ids: Tensor
    states: dict[int, Hashable]
    to_close: Tensor


class Vocabulary:
    """The tokens of a tokenizer as a tree of bytes; made once, used for any number of texts and grammars."""

    def __init__(self, tokens: Sequence[bytes | None]):
        self.tokens = list(tokens)
        self._root = _Node()
        self._allowed: dict[tuple[Grammar, Hashable], _Allowed] = {}
        for number, piece in enumerate(self.tokens):
            if piece:
                node = self._root
                for byte in piece:
                    node = node.children.setdefault(byte, _Node())
                node.tokens.append(number)

    @classmethod
    def of(cls, tokenizer) -> Vocabulary:
        """From a transformers tokenizer."""
        return cls(token_bytes(tokenizer))

    def follow(self, grammar: Grammar, state: Hashable) -> Iterator[tuple[int, Hashable]]:
        """All tokens that the grammar allows here, each with the state after it. Branches that it forbids are not entered."""
        open_ = [(self._root, state)]
        while open_:
            node, here = open_.pop()
            for byte, child in node.children.items():
                there = grammar.step(here, byte)
                if there is not None:
                    for number in child.tokens:
                        yield number, there
                    if child.children:
                        open_.append((child, there))

    def allowed(self, grammar: Grammar, state: Hashable) -> _Allowed:
        """What `follow` finds, and how far each token is from a complete text; looked up the second time."""
        if (grammar, state) not in self._allowed:
            states = dict(self.follow(grammar, state))
            closing = {there: self.count(grammar.closing(there)) for there in set(states.values())}
            to_close = torch.tensor([closing[there] for there in states.values()])
            self._allowed[grammar, state] = _Allowed(torch.tensor(list(states), dtype=torch.long), states, to_close)
        return self._allowed[grammar, state]

    def count(self, text: bytes) -> float:
        """Tokens that `text` takes when the longest that fits is taken each time; infinite where none fits."""
        place = steps = 0
        while place < len(text):
            node, end, longest = self._root, place, 0
            while end < len(text) and text[end] in node.children:
                node, end = node.children[text[end]], end + 1
                longest = end if node.tokens else longest
            if not longest:
                return float("inf")
            place, steps = longest, steps + 1
        return steps


# --- writing ----------------------------------------------------------------------------------------------------------------


def write(
    model: nn.Module,
    vocabulary: Vocabulary,
    ids: Sequence[int],
    grammar: Grammar,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop: int | None = None,
    **options,
) -> tuple[str, Continuation]:
    """A text of the grammar after the prompt `ids`, complete within `max_new_tokens`, and its tokens.

    `options`: those of `decoding.next_probabilities`. A complete text that could go on (12 of 123, 긍정 of 긍정적) ends when the
    model prefers `stop` (the tokenizer's eos id), or, with stop None, at once.
    Raises WorkshopError when even the shortest text takes more tokens, or the vocabulary lacks a byte that is needed.
    """
    need = vocabulary.count(grammar.closing(grammar.start))
    if need > max_new_tokens:
        what = "이 어휘에는 필요한 글자가 없다" if need == float("inf") else f"가장 짧은 출력도 {need}토큰이다"
        raise WorkshopError(f"{max_new_tokens}토큰으로는 형식을 지킬 수 없다: {what}. 토큰 수를 늘리거나 토크나이저를 바꾼다.")
    reader = Reader(model, ids)
    generator = torch.Generator(device=reader.device).manual_seed(seed)
    state, tokens, total, ended = grammar.start, [], 0.0, False
    while len(tokens) < max_new_tokens:
        complete = not grammar.closing(state)
        if complete and stop is None:
            break
        allowed = vocabulary.allowed(grammar, state)
        fitting = allowed.ids[allowed.to_close <= max_new_tokens - len(tokens) - 1].to(reader.device)
        if not len(fitting):
            break  # complete, and nothing may follow: see the module's second choice
        logits = reader.logits()
        log_probabilities = logits.log_softmax(-1)[0]
        if complete:
            fitting = torch.cat((fitting, fitting.new_tensor([stop])))
        # A model may rule out everything that is allowed: below the lowest finite value nothing is left to choose from.
        masked = torch.full_like(logits, -torch.inf)
        masked[:, fitting] = logits[:, fitting].nan_to_num(nan=-1e9).clamp(-1e9, 1e9)
        probabilities = next_probabilities(masked, reader.text, temperature, **options)
        token = int(torch.multinomial(probabilities, 1, generator=generator))
        total += float(log_probabilities[token])
        if complete and token == stop:
            ended = True
            break
        tokens.append(token)
        state = allowed.states[token]
        reader.append(torch.tensor([token], device=reader.device))
    text = b"".join(vocabulary.tokens[token] for token in tokens).decode("utf-8")
    return text, Continuation(tuple(tokens), total, ended)
