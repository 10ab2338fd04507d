"""From documents to training batches: one long memory-mapped row of token ids, cut into windows.

Documents are framed as `<s> … </s>` and laid end to end, so that no position of a batch is padding. The file holds nothing
but ids (uint16, or uint32 for vocabularies over 65,536); a small JSON file beside it says what they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.corpora.reading import read_documents as read_documents  # what `pack` is fed with

IGNORE = -100  # a target that is not scored


@dataclass(frozen=True)
class Encoded:
    """A document as ids, `<s>` and `</s>` included, with what is needed to report bits per character."""

    ids: tuple[int, ...]
    characters: int
    source: str


@dataclass(frozen=True)
class Packed:
    """A token file: what was put in, and how to open it."""

    path: str
    dtype: str
    tokens: int
    documents: int
    characters: int
    vocab_size: int

    def array(self) -> np.ndarray:
        """The ids, memory-mapped: (tokens,)."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.tokens,))


def pack_documents(documents: Sequence[Sequence[int]], bos: int, eos: int, window: int) -> np.ndarray:
    """Frame each document, lay them end to end, cut into rows of `window` ids: (rows, window), the rest dropped."""
    stream = [token for document in documents for token in (bos, *document, eos)]
    rows = len(stream) // window
    return np.array(stream[: rows * window], dtype=np.int64).reshape(rows, window)


def encode(documents: Iterable[dict], tokenizer, batch: int = 512) -> Iterator[Encoded]:
    """Documents as framed ids. tokenizer: a `PreTrainedTokenizerFast` with bos and eos.

    A mark that stands in a text (`<s>`, `<|end|>`) is text: it becomes letters, and no document begins or ends within another.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None or eos is None:
        raise WorkshopError("토크나이저에 <s>나 </s>가 없다. 3주차의 토크나이저 폴더를 쓰고 있는지 확인한다.")
    for group in _groups(documents, batch):
        texts = [document["text"] for document in group]
        # Longer than the context is no fault here, so nothing is said about it.
        rows = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        for document, ids in zip(group, rows):
            yield Encoded((bos, *ids, eos), len(document["text"]), str(document.get("source", "")))


def pack(documents: Iterable[dict], tokenizer, path: Path, limit: int | None = None) -> Packed:
    """Write documents as a token file, stopping after `limit` tokens. The file appears whole or not at all."""
    size = len(tokenizer)
    dtype = np.dtype(np.uint16 if size <= 2**16 else np.uint32)
    tokens = count = characters = 0
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        for document in encode(documents, tokenizer):
            file.write(np.asarray(document.ids, dtype=dtype).tobytes())  # ndarray.tofile does not notice a full disk
            tokens, count, characters = tokens + len(document.ids), count + 1, characters + document.characters
            if limit is not None and tokens >= limit:
                break
    os.replace(partial, path)
    packed = Packed(str(path), dtype.name, tokens, count, characters, size)
    path.with_suffix(".json").write_text(json.dumps(asdict(packed), indent=1) + "\n", encoding="utf-8")
    return packed


def open_packed(path: Path) -> Packed:
    """The token file at `path`, checked against its description. Raises WorkshopError where one of the two is missing or damaged."""
    told = path.with_suffix(".json")
    try:
        packed = Packed(**{**json.loads(told.read_text(encoding="utf-8")), "path": str(path)})
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise WorkshopError(f"토큰 파일 {error.filename}이(가) 없다. pack으로 다시 만든다.") from error
    except (ValueError, TypeError) as error:
        raise WorkshopError(f"{told}은(는) pack이 쓴 설명이 아니거나 깨졌다({error}). 토큰 파일을 다시 만든다.") from error
    if not packed.tokens:
        raise WorkshopError(f"토큰 파일 {path}에 토큰이 하나도 없다. 말뭉치가 비어 있지 않은지 확인하고 다시 만든다.")
    if size != packed.tokens * np.dtype(packed.dtype).itemsize:
        raise WorkshopError(f"토큰 파일 {path}의 크기 {size:,}바이트가 기록({packed.tokens:,}토큰)과 다르다. 다시 만든다.")
    return packed


class Batches:
    """Batches of windows, each window once an epoch in shuffled order, cut at a new offset in every epoch.

    A batch depends on nothing but the seed and the step, so that training can go on from any step.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int, seed: int = 0):
        if len(tokens) < context + 1:
            raise WorkshopError(
                f"말뭉치가 {len(tokens)}토큰이라 문맥 {context}토큰과 다음 토큰 하나를 채우지 못한다. "
                "말뭉치를 늘리거나 context를 줄인다."
            )
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed
        self.windows = max((len(tokens) - context) // context, 1)  # as many at every offset
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def starts(self, step: int) -> np.ndarray:
        """Where the windows of a step begin in the token file: (batch,)."""
        rows = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self._order(row // self.windows)[row % self.windows] for row in rows])

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and next tokens of a step: int64 (batch / ranks, context) each; `rank` takes every ranks-th row."""
        starts = self.starts(step)[rank::ranks]
        rows = np.stack([self.tokens[s : s + self.context + 1] for s in starts]).astype(np.int64)
        return rows[:, :-1], rows[:, 1:]

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            random = np.random.default_rng((self.seed, epoch))
            slack = len(self.tokens) - 1 - self.windows * self.context
            offset = random.integers(min(slack, self.context - 1) + 1)
            self._epoch = (epoch, offset + self.context * random.permutation(self.windows))
        return self._epoch[1]


@dataclass(frozen=True)
class Validation:
    """Held-out documents as windows. Every token but `<s>` is scored once, with at least half a context before it
    where its document has that much."""

    inputs: np.ndarray  # (windows, context) int64
    targets: np.ndarray  # (windows, context) int64, IGNORE where not scored
    document: np.ndarray  # (windows, context) int64: which document a target belongs to
    documents: tuple[Encoded, ...]

    @property
    def characters(self) -> int:
        """Of all documents together: what nats are divided by for bits per character."""
        return sum(document.characters for document in self.documents)

    def stream(self) -> np.ndarray:
        """The same documents end to end, for an n-gram model."""
        return np.concatenate([np.asarray(document.ids) for document in self.documents])


def validation_windows(documents: Iterable[Encoded], context: int) -> Validation:
    """Lay whole documents into windows as long as they fit; longer ones are cut with half a window of overlap."""
    documents = tuple(documents)
    if not documents:
        raise WorkshopError("검증용 문서가 하나도 없다. corpus/validation.jsonl이 비어 있지 않은지 확인한다.")
    rows: list[list[tuple[int, int, int]]] = [[]]  # (input, target, document)
    for number, document in enumerate(documents):
        ids = document.ids
        pairs = [(a, b, number) for a, b in zip(ids, ids[1:])]
        if len(pairs) > context - len(rows[-1]):
            rows.append([])
        rows[-1] += pairs[:context]
        for start in range(context, len(pairs), context - context // 2):
            seen = [(a, IGNORE, n) for a, _, n in pairs[start - context // 2 : start]]
            rows.append(seen + pairs[start : start + context - context // 2])
    padded = [row + [(documents[0].ids[0], IGNORE, 0)] * (context - len(row)) for row in rows if row]
    table = np.array(padded, dtype=np.int64)
    return Validation(table[:, :, 0].copy(), table[:, :, 1].copy(), table[:, :, 2].copy(), documents)


def _groups(documents: Iterable[dict], size: int) -> Iterator[list[dict]]:
    group: list[dict] = []
    for document in documents:
        group.append(document)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
