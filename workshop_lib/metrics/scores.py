"""The arithmetic of the metrics, as plain functions over lists of predictions and references.

All scores lie between 0 and 1 and are held by tests to scikit-learn, sacrebleu and rouge-score.

Notable choices
- What is counted is a choice, not a detail. `units` cuts a text into words (어절), characters, morphemes or content morphemes.
  By words, 고양이가 and 고양이는 have nothing in common; by characters or morphemes they share the noun. By morphemes, two sentences
  about different things still share their particles and endings, which content morphemes leave out.
- Empty input and unequal lengths are errors: a mean over nothing is no score.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cache

from workshop_lib import WorkshopError

UNITS = ("char", "word", "morpheme", "content")


# --- labels -----------------------------------------------------------------------------------------------------------


def accuracy(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> float:
    """Share of predictions that equal their reference."""
    _check(predictions, references)
    return sum(p == r for p, r in zip(predictions, references)) / len(references)


def f1(predictions: Sequence[Hashable], references: Sequence[Hashable], average: str = "macro", positive: Hashable = 1) -> float:
    """F1 of labels: 2·hits / (2·hits + false alarms + misses).

    average: "macro" (mean over the labels that occur in either list), "micro" (hits and errors of all labels together) or
    "binary" (of the label `positive` alone). A label that is never hit has 0.
    """
    _check(predictions, references)
    hits, said, true = Counter(), Counter(predictions), Counter(references)
    for prediction, reference in zip(predictions, references):
        hits[reference] += prediction == reference
    if average == "micro":
        return sum(hits.values()) / len(references)  # every false alarm of one label is a miss of another
    if average == "binary":
        return _ratio(2 * hits[positive], said[positive] + true[positive])
    if average != "macro":
        raise WorkshopError(f"average는 macro, micro, binary 가운데 하나여야 한다. 받은 값: {average!r}")
    labels = said.keys() | true.keys()
    return math.fsum(_ratio(2 * hits[label], said[label] + true[label]) for label in labels) / len(labels)


# --- answers ----------------------------------------------------------------------------------------------------------


def normalise_answer(text: str) -> str:
    """An answer without what does not count (as KorQuAD does): NFC, lower case, no punctuation, single spaces."""
    kept = (char for char in unicodedata.normalize("NFC", text).lower() if not unicodedata.category(char).startswith("P"))
    return " ".join("".join(kept).split())


def exact_match(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """Share of answers that equal one of their references after `normalise_answer`."""
    _check(predictions, references)
    right = (normalise_answer(p) in {normalise_answer(r) for r in _several(rs)} for p, rs in zip(predictions, references))
    return sum(right) / len(references)


def char_f1(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> float:
    """Mean over answers of the F1 of shared characters (spaces aside) with the nearest reference, as KorQuAD scores.

    Two empty answers ("no answer") agree fully.
    """
    _check(predictions, references)
    return math.fsum(max(_char_f1(p, r) for r in _several(rs)) for p, rs in zip(predictions, references)) / len(references)


def _char_f1(prediction: str, reference: str) -> float:
    a, b = (Counter(normalise_answer(text).replace(" ", "")) for text in (prediction, reference))
    return float(a == b) if not a or not b else 2 * (a & b).total() / (a.total() + b.total())


# --- texts ------------------------------------------------------------------------------------------------------------


def units(text: str, by: str = "char") -> list[str]:
    """A text as the pieces that are counted.

    "char" (white space left out), "word" (어절), "morpheme" (kiwipiepy's forms), or "content": morphemes other than particles
    (tags J*), endings (E*), affixes (X*, roots aside) and punctuation.
    """
    if by == "char":
        return list("".join(text.split()))
    if by == "word":
        return text.split()
    if by == "morpheme":
        return [token.form for token in _kiwi().tokenize(text)]
    if by == "content":
        return [token.form for token in _kiwi().tokenize(text) if _is_content(token.tag)]
    raise WorkshopError(f"단위는 {', '.join(UNITS)} 가운데 하나여야 한다. 받은 값: {by!r}")


def _is_content(tag: str) -> bool:
    return tag[0] not in "JEXS" or tag in ("XR", "SL", "SH", "SN")  # a root; foreign letters, hanja and numbers


@cache
def _kiwi():
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)


def ngrams(pieces: Sequence[str], n: int) -> Counter:
    """How often each run of `n` pieces occurs."""
    return Counter(tuple(pieces[i : i + n]) for i in range(len(pieces) - n + 1))


def chrf(predictions: Sequence[str], references: Sequence[str], order: int = 6, beta: float = 2.0) -> float:
    """chrF of a corpus (Popović 2015): F_β of precision and recall of character n-grams, each averaged over n = 1…order.

    β = 2 counts recall twice as important. White space is left out. Orders that neither side is long enough for do not count.
    """
    _check(predictions, references)
    precisions, recalls = [], []
    for n in range(1, order + 1):
        said = true = match = 0
        for prediction, reference in zip(predictions, references):
            a, b = ngrams(units(prediction), n), ngrams(units(reference), n)
            said += a.total() if b else 0  # as sacrebleu: no reference of this length, no false alarms
            true += b.total()
            match += (a & b).total()
        if said and true:
            precisions.append(match / said)
            recalls.append(match / true)
    if not precisions:
        return 0.0
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return _ratio((1 + beta**2) * p * r, beta**2 * p + r)


def bleu(predictions: Sequence[str], references: Sequence[str], by: str = "char", order: int = 4) -> float:
    """BLEU of a corpus (Papineni 2002): geometric mean of clipped n-gram precisions × brevity penalty exp(1 − |ref|/|pred|).

    An order without a match is smoothed by 1/2, 1/4, … of a match (NIST; sacrebleu's "exp").
    """
    _check(predictions, references)
    pairs = [(units(p, by), units(r, by)) for p, r in zip(predictions, references)]
    said, true = sum(len(p) for p, _ in pairs), sum(len(r) for _, r in pairs)
    logs, halving, any_match = [], 1.0, False
    for n in range(1, order + 1):
        grams = [(ngrams(p, n), ngrams(r, n)) for p, r in pairs]
        match, total = sum((a & b).total() for a, b in grams), sum(a.total() for a, _ in grams)
        if total == 0:
            return 0.0  # shorter than the longest run that is asked for
        any_match = any_match or match > 0
        if match == 0:
            halving *= 2
        logs.append(math.log(match / total if match else 1 / (halving * total)))
    if not any_match:
        return 0.0
    return min(1.0, math.exp(1 - true / said)) * math.exp(sum(logs) / order)


def rouge(predictions: Sequence[str], references: Sequence[str], by: str = "char") -> dict[str, float]:
    """ROUGE-1, -2 and -L (Lin 2004): mean F1 of shared units, of shared pairs of units, and of the longest common subsequence."""
    _check(predictions, references)
    sums = Counter()
    for prediction, reference in zip(predictions, references):
        a, b = units(prediction, by), units(reference, by)
        for n in (1, 2):
            x, y = ngrams(a, n), ngrams(b, n)
            sums[f"rouge{n}"] += _ratio(2 * (x & y).total(), x.total() + y.total())
        sums["rougeL"] += _ratio(2 * longest_common_subsequence(a, b), len(a) + len(b))
    return {name: sums[name] / len(references) for name in ("rouge1", "rouge2", "rougeL")}


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest sequence that both contain in order, gaps allowed: one row of the usual table at a time."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0  # the cell up and to the left
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(predictions: Sequence, references: Sequence) -> None:
    if len(predictions) != len(references):
        raise WorkshopError(f"예측은 {len(predictions)}개, 정답은 {len(references)}개이다. 수가 같아야 한다.")
    if not len(references):
        raise WorkshopError("채점할 문항이 하나도 없다.")


def _several(references: str | Sequence[str]) -> list[str]:
    return [references] if isinstance(references, str) else list(references) or [""]  # no answer: the empty one is right


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
