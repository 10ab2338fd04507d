"""Week 1: the smallest language model there is, a table of which character follows which.

Everything that a large model does at generation time is here in miniature: a distribution over the next symbol, a
temperature, a draw, and the bits per character that score it. Shannon, "A Mathematical Theory of Communication" (1948), §3.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable

from workshop_lib import WorkshopError

START, END = "\x02", "\x03"  # stand before the first and after the last character of a text


def neighbours(text: str) -> list[tuple[str, str]]:
    """Each character with the one after it, START before the first and END after the last: one pair more than characters."""
    marked = START + text + END
    return list(zip(marked, marked[1:]))


def count_next(texts: Iterable[str]) -> dict[str, dict[str, int]]:
    """How often each character follows each: {before: {after: count}}, with START before a text and END after it."""
    table: dict[str, Counter] = {}
    for text in texts:
        for before, after in neighbours(text):
            table.setdefault(before, Counter())[after] += 1
    return {before: dict(counts) for before, counts in table.items()}


def to_probabilities(counts: dict[str, int]) -> dict[str, float]:
    """Counts as probabilities that sum to 1."""
    total = sum(counts.values())
    return {symbol: count / total for symbol, count in counts.items()}


def with_temperature(probabilities: dict[str, float], temperature: float) -> dict[str, float]:
    """Probabilities sharpened (temperature < 1) or flattened (> 1): p^(1/T), normalised.

    The same as dividing logits by T before the softmax. As T → 0 only the most probable symbols are left; 0 itself is
    taken as that limit, the first most probable symbol. Raises WorkshopError for a negative temperature.
    """
    if temperature < 0:
        raise WorkshopError(f"온도는 0 이상이어야 한다: {temperature}")
    best = max(probabilities, key=probabilities.get)
    if temperature == 0:
        return {symbol: float(symbol == best) for symbol in probabilities}
    # Dividing by the largest first keeps p^(1/T) from vanishing at small T.
    scaled = {symbol: (p / probabilities[best]) ** (1 / temperature) for symbol, p in probabilities.items()}
    total = sum(scaled.values())
    return {symbol: value / total for symbol, value in scaled.items()}


def draw(probabilities: dict[str, float], u: float) -> str:
    """The symbol whose interval of the cumulative distribution holds u, with 0 ≤ u < 1."""
    cumulative = 0.0
    for symbol, p in probabilities.items():
        cumulative += p
        if u < cumulative:
            return symbol
    return symbol  # rounding may leave the sum a hair below 1


def generate(table: dict[str, dict[str, int]], temperature: float, rng: random.Random, limit: int = 60) -> str:
    """A text drawn character by character until END or `limit` characters."""
    text = ""
    while len(text) < limit:
        counts = table[text[-1] if text else START]
        symbol = draw(with_temperature(to_probabilities(counts), temperature), rng.random())
        if symbol == END:
            break
        text += symbol
    return text


def bits_per_character(probabilities: Iterable[float]) -> float:
    """Mean of −log₂ p over the probabilities that a model gave to the characters that really came.

    Raises WorkshopError when there is none.
    """
    bits = [-math.log2(p) if p > 0 else math.inf for p in probabilities]
    if not bits:
        raise WorkshopError("글자가 하나도 없어 문자당 비트를 셀 수 없다.")
    return sum(bits) / len(bits)
