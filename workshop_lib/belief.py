"""How far a measured number can be believed: intervals, tests between two models, contamination.

An accuracy of 0.62 on 100 items is a guess about the accuracy on all items that could have been asked. `wilson_interval` and
`bootstrap_interval` say how wide that guess is; `mcnemar` and `paired_bootstrap` compare two models that answered the same
items, which is far sharper than comparing two intervals; `overlap` finds the items that the training text gave away.

Notable choices
- No SciPy: each function is short enough to be read, and the tests hold it to SciPy's.
- Everything random takes a seed and resamples with numpy's PCG64: the same numbers on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from workshop_lib import WorkshopError

_CHUNK = 2_000_000  # resampled values held at once


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval (low, high) of a proportion, `correct` of `total` (Wilson 1927).

    It stays inside [0, 1] and has a width even at 0 of n or n of n, where the textbook p ± z·sqrt(p(1-p)/n) has none:

        centre = (p + z²/2n) / (1 + z²/n),   half = z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²)

    Raises WorkshopError for total < 1, correct outside 0..total, or a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    if total < 1:
        raise WorkshopError(f"문항이 {total}개이면 구간을 계산할 수 없다. 한 개 이상을 채점한다.")
    if not 0 <= correct <= total:
        raise WorkshopError(f"맞은 수 {correct}이(가) 0과 문항 수 {total} 사이에 있지 않다.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = correct / total, z * z / total
    centre = (p + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(p * (1 - p) / total + z2 / (4 * total))
    # At the ends the formula is 0 or 1 up to rounding.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == total else centre + half)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a statistic of `values` (Efron 1979): draw n items with replacement, again and again.

    values: (items,) or (items, columns), one row an item; the whole row is drawn, so a correlation of two columns can be had.
    `statistic`: a function of such an array; None is the mean. Raises WorkshopError for no items.
    """
    _check_confidence(confidence)
    rows = np.asarray(values)
    if len(rows) == 0:
        raise WorkshopError("값이 하나도 없어 부트스트랩 구간을 계산할 수 없다.")
    drawn = _resampled(rows, statistic, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Items that only one of two models got right, and the two-sided p-value of so uneven a split."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test (1947): are two models that answered the same items equally good?

    first, second: (items,) right or wrong. Items on which both are right or both are wrong say nothing. Were the models equal, each
    of the others would fall to either side like a coin, so p = 2 · P(Binomial(n, ½) ≤ the smaller count), at most 1.
    """
    a, b = _pair(first, second)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1  # of choosing no item; whole numbers until the last division, so nothing overflows or is lost
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))


@dataclass(frozen=True)
class Difference:
    """A difference first − second with its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interval of statistic(first) − statistic(second) over items drawn with replacement, the same items for both (Koehn 2004).

    first, second: (items,) scores of two models on the same items. p-value: twice the share of resamples on the other side of
    zero (counting the data itself as one, so it is never 0). Raises WorkshopError for unequal lengths or no items.
    """
    _check_confidence(confidence)
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    _check_pair(a, b)
    measure = statistic or np.mean
    both = np.stack([a, b], axis=1)
    if statistic is None:
        drawn = _resampled(a - b, None, resamples, seed)  # the mean of the differences: the same, and quicker
    else:
        drawn = _resampled(both, lambda rows: measure(rows[:, 0]) - measure(rows[:, 1]), resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    opposite = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(float(measure(a) - measure(b)), float(low), float(high), min(1.0, 2 * (opposite + 1) / (resamples + 1)))


def _resampled(rows: np.ndarray, statistic: Callable[[np.ndarray], float] | None, resamples: int, seed: int) -> np.ndarray:
    """The statistic of `resamples` samples drawn with replacement: (resamples,)."""
    if resamples < 1:
        raise WorkshopError(f"재표집 횟수는 1 이상이어야 한다. 받은 값: {resamples}")
    rng = np.random.default_rng(seed)
    n = len(rows)
    if statistic is not None:
        return np.array([statistic(rows[rng.integers(0, n, n)]) for _ in range(resamples)], dtype=float)
    step = max(1, _CHUNK // n)
    parts = (min(step, resamples - start) for start in range(0, resamples, step))
    return np.concatenate([rows[rng.integers(0, n, (part, n))].mean(axis=1) for part in parts])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise WorkshopError(f"신뢰 수준은 0과 1 사이의 수여야 한다(예: 0.95). 받은 값: {confidence}")


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise WorkshopError(f"두 모델이 같은 문항에 답해야 한다. 첫째는 {len(a)}개, 둘째는 {len(b)}개이다.")
    if len(a) == 0:
        raise WorkshopError("문항이 하나도 없어 두 모델을 견줄 수 없다.")


def _pair(first: Iterable, second: Iterable) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(list(first), dtype=bool), np.asarray(list(second), dtype=bool)
    _check_pair(a, b)
    return a, b


def answers_needed(before: float, after: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """Answers to judge of each of two models, so that shares of `before` and `after` are told apart (Fleiss 1981, ch. 3).

        n = (z_confidence + z_power)² · (p(1-p) + q(1-q)) / (p - q)²,   rounded up

    z_confidence is two-sided; `power`: how often a difference of that size shall be found. Each model answers questions of its own;
    the same questions for both need fewer. Raises WorkshopError for shares that are equal or not inside (0, 1), and for such levels.
    """
    _check_confidence(confidence)
    _check_confidence(power)
    if not (0 < before < 1 and 0 < after < 1) or before == after:
        raise WorkshopError(f"두 비율은 서로 다르고 0과 1 사이여야 한다. 받은 값: {before}, {after}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2) + NormalDist().inv_cdf(power)
    return math.ceil(z * z * (before * (1 - before) + after * (1 - after)) / (before - after) ** 2)


# --- contamination ----------------------------------------------------------------------------------------------------

SHORTEST = 4  # words: two texts may well share fewer by chance


def contamination(items: Sequence[str], documents: Iterable[str], words: int = 8) -> np.ndarray:
    """How much of each benchmark item stands in the training text: the share of its runs of `words` words found there, (items,).

    A run is compared without case and punctuation, as week 2 does when it removes such documents. An item with fewer words (a
    headline) is one run, whole; one with fewer than four cannot be judged and has 0. GPT-3's report (Brown 2020, appendix C)
    compares accuracy on the items that are clean with that on all.
    """
    from workshop_lib.cleaning.near_duplicates import word_ngrams

    runs = []
    for item in items:
        size = min(words, len(word_ngrams(item, 1)))
        runs.append(set(word_ngrams(item, size)) if size >= SHORTEST else set())
    sizes = {gram.count(" ") + 1 for grams in runs for gram in grams}
    wanted = set().union(*runs)
    found: set[str] = set()
    for document in documents:
        for size in sizes:
            found.update(gram for gram in word_ngrams(document, size) if gram in wanted)
    return np.array([len(grams & found) / len(grams) if grams else 0.0 for grams in runs])
