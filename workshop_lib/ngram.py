"""N-gram language models: what a neural model has to beat, counted from the very same tokens.

Interpolated modified Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1998, section 3): the longest order uses raw counts,
shorter orders count how many different tokens come before an n-gram, and what discounting takes away is given to the
next shorter order. Everything is sorted arrays: an n-gram is the pair (number of its context, token) in one 64-bit key,
so 16 million tokens to order 5 need seconds and no Python dictionary.

With `bos` given, documents are modelled one by one: no n-gram reaches back past the start of its document, and `bos`
itself is context only, never predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workshop_lib import WorkshopError


def bits_per_char(nats: float, characters: int) -> float:
    """Total negative log-likelihood in nats → bits per character of the text (independent of the tokenizer)."""
    if characters <= 0:
        raise WorkshopError(f"문자 수가 {characters}이다. 문자가 하나라도 있어야 문자당 비트를 잴 수 있다.")
    return nats / math.log(2) / characters


@dataclass(frozen=True)
class Level:
    """One order. `keys`: sorted context · vocabulary + token; `mass`: discounted count / context total."""

    keys: np.ndarray  # int64 (n-grams,)
    mass: np.ndarray  # float64 (n-grams,) max(count − discount, 0) / total
    backoff: np.ndarray  # float64 (contexts,) probability left for the next shorter order
    discounts: tuple[float, float, float]


@dataclass(frozen=True)
class NgramModel:
    """Interpolated Kneser-Ney model over token ids. Made by `fit`."""

    levels: tuple[Level, ...]  # orders 1, 2, …, n
    vocab_size: int
    bos: int | None

    @property
    def order(self) -> int:
        """The longest run of tokens that is counted."""
        return len(self.levels)

    def log_probabilities(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """ln p(token | the tokens before it) for each token of a stream (tokens,); 0 where the token is `bos`."""
        tokens, depth = _checked(tokens, self.vocab_size, self.bos)
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        found = np.zeros(len(tokens), dtype=np.int64)  # where the n-gram that ends here stands; −1: never seen
        for n, level in enumerate(self.levels, start=1):
            context = found if n == 1 else np.where(depth >= n - 1, _before(found), -1)
            at, found = _look_up(level.keys, context, tokens, self.vocab_size)
            seen = context >= 0
            probability[seen] *= level.backoff[context[seen]]
            hit = found >= 0
            probability[hit] += level.mass[at[hit]]
        scores = np.log(probability)
        if self.bos is not None:
            scores[tokens == self.bos] = 0.0
        return scores

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p(· | context) over the whole vocabulary: (vocabulary,), sums to 1 (`bos` keeps a uniform share)."""
        context = list(context)[-(self.order - 1) :] if self.order > 1 else []
        if self.bos is not None and self.bos in context:
            context = context[len(context) - 1 - context[::-1].index(self.bos) :]
        probability = np.full(self.vocab_size, 1.0 / self.vocab_size)
        for n in range(1, len(context) + 2):
            number = self._number(context[len(context) - n + 1 :])
            if number < 0:
                break  # a longer context has not been seen either
            level = self.levels[n - 1]
            probability *= level.backoff[number]
            first, last = np.searchsorted(level.keys, [number * self.vocab_size, (number + 1) * self.vocab_size])
            probability[level.keys[first:last] - number * self.vocab_size] += level.mass[first:last]
        return probability

    def bits_per_char(self, tokens: Sequence[int] | np.ndarray, characters: int) -> float:
        """Bits per character of a token stream that encodes `characters` characters."""
        return bits_per_char(-float(self.log_probabilities(tokens).sum()), characters)

    def _number(self, context: Sequence[int]) -> int:
        number = 0
        for level, token in zip(self.levels, context):
            key = number * self.vocab_size + token
            at = int(np.searchsorted(level.keys, key))
            if at == len(level.keys) or level.keys[at] != key:
                return -1
            number = at
        return number


def fit(tokens: Sequence[int] | np.ndarray, order: int, vocab_size: int, bos: int | None = None) -> NgramModel:
    """Count and smooth. tokens: a stream of ids (tokens,). Order 1 is a unigram model smoothed with the uniform one.

    Raises WorkshopError when the stream is empty, an id lies outside the vocabulary, or order < 1.
    """
    if order < 1:
        raise WorkshopError(f"n-그램의 n은 1 이상이어야 한다. 받은 값은 {order}이다.")
    tokens, depth = _checked(tokens, vocab_size, bos)
    if len(tokens) == 0:
        raise WorkshopError("n-그램을 셀 토큰이 하나도 없다. 말뭉치가 비어 있지 않은지 확인한다.")
    found: list[tuple[np.ndarray, np.ndarray]] = []  # each order: keys, counts
    starts: list[np.ndarray] = []  # each order: where each n-gram first ends in the stream
    continuations: list[np.ndarray] = []
    number = np.zeros(len(tokens), dtype=np.int64)
    for n in range(1, order + 1):
        context = number if n == 1 else _before(number)
        valid = np.flatnonzero(depth >= n - 1) if n > 1 else np.arange(len(tokens))
        keys, inverse, first, counts = _unique(context[valid] * vocab_size + tokens[valid])
        previous, number = number, np.full(len(tokens), -1, dtype=np.int64)
        number[valid] = inverse
        found.append((keys, counts))
        starts.append(valid[first])
        if n > 1:
            # Each distinct n-gram is one more left neighbour of the (n−1)-gram that it ends with. `previous` numbers
            # (n−1)-grams by where they end, so the one that ends at the same place is the ending.
            continuations.append(np.bincount(previous[starts[-1]], minlength=len(found[-2][0])))
    levels = []
    contexts = 1
    for n, (keys, counts) in enumerate(found, start=1):
        used = counts
        if n < order:
            used = continuations[n - 1].astype(np.int64)
            if bos is not None:  # nothing can come before the start of a document: keep its raw counts
                opening = tokens[starts[n - 1] - n + 1] == bos
                used[opening] = counts[opening]
        if n == 1 and bos is not None:
            used = np.where(keys == bos, 0, used)
        levels.append(_level(keys, used, keys // vocab_size, contexts))
        contexts = len(keys)
    return NgramModel(tuple(levels), vocab_size, bos)


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Chen & Goodman 1998, eq. 26: what to take from n-grams counted once, twice, and three times or more."""
    ones, twos, threes, fours = (max(int((counts == k).sum()), 0) for k in (1, 2, 3, 4))
    if not ones or not twos:
        return (0.5, 0.5, 0.5)  # too little text to estimate from
    base = ones / (ones + 2 * twos)
    d1 = 1 - 2 * base * twos / ones
    d2 = 2 - 3 * base * threes / twos
    d3 = 3 - 4 * base * fours / threes if threes else d2
    return tuple(float(np.clip(d, 0.05, limit)) for d, limit in zip((d1, d2, d3), (0.95, 1.9, 2.85)))


def _level(keys: np.ndarray, counts: np.ndarray, context: np.ndarray, contexts: int) -> Level:
    d = discounts(counts)
    taken = np.minimum(counts, np.array([0.0, *d])[np.minimum(counts, 3)])
    total = np.bincount(context, weights=counts, minlength=contexts)
    spare = np.bincount(context, weights=taken, minlength=contexts)
    safe = np.maximum(total, 1)
    return Level(keys, (counts - taken) / safe[context], np.where(total > 0, spare / safe, 1.0), d)


def _checked(tokens: Sequence[int] | np.ndarray, vocab_size: int, bos: int | None) -> tuple[np.ndarray, np.ndarray]:
    """int64 tokens, and how many tokens of the same document come before each."""
    tokens = np.asarray(tokens, dtype=np.int64).ravel()
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
        wrong = int(tokens[np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0]])
        raise WorkshopError(f"토큰 번호 {wrong}이(가) 어휘 크기 {vocab_size} 밖에 있다. 같은 토크나이저로 만든 토큰인지 확인한다.")
    position = np.arange(len(tokens))
    if bos is None or not len(tokens):
        return tokens, position
    start = np.maximum.accumulate(np.where(tokens == bos, position, 0))
    return tokens, position - start


def _before(values: np.ndarray) -> np.ndarray:
    """The value one place to the left; −1 at the beginning."""
    return np.concatenate(([-1], values[:-1]))


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct keys, the place of each key among them, where each is first found, and how often."""
    rank = np.argsort(keys, kind="stable")
    ordered = keys[rank]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(keys) else np.zeros(0, dtype=bool)
    heads = np.flatnonzero(new)
    inverse = np.empty(len(keys), dtype=np.int64)
    inverse[rank] = np.cumsum(new) - 1
    return ordered[heads], inverse, rank[heads], np.diff(np.append(heads, len(keys)))


def _look_up(keys: np.ndarray, context: np.ndarray, tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each (context, token) its place in keys, and that place again or −1 where it is not there."""
    if not len(keys):
        return np.zeros(len(tokens), dtype=np.int64), np.full(len(tokens), -1, dtype=np.int64)
    wanted = np.where(context >= 0, context * vocab_size + tokens, -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, np.where(keys[at] == wanted, at, -1)
