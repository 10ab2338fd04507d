"""Is this text worth learning from? Rules, and a small classifier trained from scratch.

The rules are those of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A) and C4 (Raffel et al. 2019,
arXiv 1910.10683, section 2.2), refitted to Korean: an eojeol carries more than an English word, sentences end in
다/요 as often as in a full stop, and "stop words" become the share of Hangul.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workshop_lib import WorkshopError
from workshop_lib.cleaning.extraction import SENTENCE_END
from workshop_lib.cleaning.near_duplicates import shingle_hashes

_HANGUL = re.compile("[가-힣]")
_JAMO = re.compile("[ㄱ-ㆎ]")
_SYMBOL = re.compile(r"[^\w\s.,?!…\"'“”‘’()·:;~\-「」『』《》〈〉%\[\]]")


@dataclass(frozen=True)
class Rules:
    """Thresholds of the filters. A page of 20 characters is a leftover, a review of 20 characters is a review,
    hence two instances: WEB for crawled pages, PLAIN for texts that somebody chose."""

    min_chars: int
    min_hangul: float            # Hangul syllables / letters
    max_jamo: float              # lone jamo (ㅋㅋㅋ, ㅁㄴㅇㄹ) / letters
    max_symbols: float           # symbols / characters without white space
    max_damage: float            # U+FFFD and impossible syllables / characters
    max_repeated: float          # characters in repeated lines, or in repeated word n-grams
    min_sentence_lines: float    # lines of 10 and more characters that end like a sentence
    spam_words: int              # different spam expressions that condemn a page


WEB = Rules(min_chars=30, min_hangul=0.4, max_jamo=0.3, max_symbols=0.25, max_damage=0.05, max_repeated=0.3,
            min_sentence_lines=0.2, spam_words=2)
PLAIN = Rules(min_chars=2, min_hangul=0.2, max_jamo=0.6, max_symbols=0.6, max_damage=0.3, max_repeated=0.6,
              min_sentence_lines=0.0, spam_words=3)


def hangul_ratio(text: str) -> float:
    """Hangul syllables among the letters of all scripts, 0..1; lone jamo count as neither. No letters: 0."""
    syllables = len(_HANGUL.findall(text))
    letters = sum(map(str.isalpha, text)) - len(_JAMO.findall(text))
    return syllables / letters if letters else 0.0


def jamo_ratio(text: str) -> float:
    """Lone jamo among Hangul, 0..1."""
    jamo = len(_JAMO.findall(text))
    return jamo / (jamo + len(_HANGUL.findall(text))) if jamo else 0.0


def repeated_line_ratio(text: str) -> float:
    """Characters in lines that have stood before, over all characters (Gopher, table A1)."""
    seen: set[str] = set()
    total = repeated = 0
    for line in text.split("\n"):
        line = line.strip()
        total += len(line)
        if line in seen:
            repeated += len(line)
        seen.add(line)
    return repeated / total if total else 0.0


def repeated_ngram_ratio(text: str, size: int = 3) -> float:
    """Characters in words covered by an n-gram that has occurred before, over characters of all words.

    Gopher's "duplicate n-gram character fraction" with words cut at white space. Each word counts once,
    however many repeated n-grams cover it.
    """
    words = text.split()
    seen: set[tuple[str, ...]] = set()
    covered = [False] * len(words)
    for start in range(len(words) - size + 1):
        gram = tuple(words[start:start + size])
        if gram in seen:
            covered[start:start + size] = [True] * size
        seen.add(gram)
    total = sum(map(len, words))
    return sum(len(word) for word, hit in zip(words, covered) if hit) / total if total else 0.0


def sentence_line_ratio(text: str) -> float:
    """Share of lines of 10 and more characters that end like a Korean sentence (C4 asks for a terminal mark)."""
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if len(line) >= 10]
    return sum(bool(SENTENCE_END.search(line)) for line in lines) / len(lines) if lines else 0.0


SPAM = {
    "adult": re.compile(r"성인\s?(?:인증|채팅|전용|사이트|용품|영상)|19세 이상만|조건\s?(?:없는 )?만남|출장\s?(?:만남|안마|마사지)|"
                        r"야동|비밀 상담방|만남 채팅|무료 성인"),
    "spam": re.compile(r"카지노|바카라|토토|먹튀|꽁머니|배팅|베팅|슬롯|사다리 게임|추천인 코드|롤링 없이|메이저 사이트|"
                       r"안전 놀이터|환전 무제한|당일 (?:대출|송금)|무직자|소액 대출|추가 대출|무서류|무방문|신용 등급 상관|연체자|"
                       r"한도 조회|대출 최대|비대면 대출|카톡 \S{0,12}\d|카카오톡 \S{0,12}\d"),
}
_SPLIT_UP = re.compile(r"(?<=[가-힣])[·.‧・*](?=[가-힣])")          # 카·지·노


def spam_kind(text: str, words: int) -> str | None:
    """"adult" or "spam" if at least `words` different expressions of that kind stand in the text, one every 60
    characters or denser: a petition about betting names it, an advertisement is made of it. Else None."""
    plain = _SPLIT_UP.sub("", text)
    for kind, pattern in SPAM.items():
        found = pattern.findall(plain)
        if len(set(found)) >= words and 60 * len(found) >= len(text):
            return kind
    return None


def rejection_reason(text: str, rules: Rules, damage: float = 0.0) -> str | None:
    """First rule that the text breaks, or None. Reasons: empty, no_letters, broken, too_short, foreign, jamo_only, symbols, repetition,
    adult, spam, no_sentence. `damage` is `decoding.damaged_share(text)`.
    """
    squeezed = "".join(text.split())
    if not squeezed:
        return "empty"
    if not any(map(str.isalpha, squeezed)):
        return "no_letters"
    if damage > rules.max_damage:
        return "broken"
    if jamo_ratio(text) > rules.max_jamo:
        return "jamo_only"
    if len(_SYMBOL.findall(squeezed)) > rules.max_symbols * len(squeezed):
        return "symbols"
    if hangul_ratio(text) < rules.min_hangul:
        return "foreign"
    if kind := spam_kind(text, rules.spam_words):
        return kind
    if max(repeated_line_ratio(text), repeated_ngram_ratio(text)) > rules.max_repeated:
        return "repetition"
    if len(squeezed) < rules.min_chars:
        return "too_short"
    if sentence_line_ratio(text) < rules.min_sentence_lines:
        return "no_sentence"
    return None


# --- classifier ---------------------------------------------------------------------------------------------

_BUCKETS = 1 << 15
_READ_CHARS = 1_000


def ngram_features(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashed character 2- and 3-grams of the first 1,000 characters: (buckets (total,), starts (len(texts),))."""
    heads = [text[:_READ_CHARS] for text in texts]
    parts = []
    for size in (2, 3):
        hashes, starts = shingle_hashes(heads, size)
        owner = np.repeat(np.arange(len(texts)), np.diff(np.append(starts, len(hashes))))
        parts.append((owner, (hashes + np.uint64(size)) % np.uint64(_BUCKETS)))
    owners = np.concatenate([owner for owner, _ in parts])
    order = np.argsort(owners, kind="stable")
    buckets = np.concatenate([bucket for _, bucket in parts])[order].astype(np.int64)
    return buckets, np.searchsorted(owners[order], np.arange(len(texts)))


@dataclass(frozen=True)
class QualityModel:
    """Logistic regression over hashed n-grams: weights (buckets,) float64, bias, and the P(good) below which a text goes."""

    weights: np.ndarray
    bias: float
    threshold: float = 0.5

    def probability(self, texts: Sequence[str]) -> np.ndarray:
        """P(worth keeping) for each text, (len(texts),)."""
        if not len(texts):
            return np.zeros(0)
        buckets, starts = ngram_features(texts)
        lengths = np.diff(np.append(starts, len(buckets)))
        return sigmoid(np.add.reduceat(self.weights[buckets], starts) / lengths + self.bias)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ᶻ) without overflow for any float."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z, dtype=float)))


def train_quality_model(texts: Sequence[str], good: Sequence[bool], steps: int = 150, rate: float = 2.0,
                        decay: float = 1e-5) -> QualityModel:
    """Fit by full-batch Adagrad on the cross-entropy, classes weighted alike. Deterministic.

    Each text is the mean of its n-grams (as in fastText's classifier, arXiv 1607.01759), so length tells nothing.
    Raises WorkshopError if one of the two classes is missing.
    """
    labels = np.asarray(good, dtype=float)
    if not 0 < labels.sum() < len(labels):
        raise WorkshopError("품질 분류기를 학습하려면 좋은 글과 나쁜 글이 모두 있어야 한다.")
    buckets, starts = ngram_features(texts)
    lengths = np.diff(np.append(starts, len(buckets)))
    importance = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (len(labels) - labels.sum()))
    weights, bias = np.zeros(_BUCKETS), 0.0
    squares, bias_square = np.full(_BUCKETS, 1e-12), 1e-12
    for _ in range(steps):
        scores = np.add.reduceat(weights[buckets], starts) / lengths + bias
        error = (sigmoid(scores) - labels) * importance
        gradient = np.bincount(buckets, np.repeat(error / lengths, lengths), _BUCKETS) + decay * weights
        squares += gradient ** 2
        bias_square += error.sum() ** 2
        weights -= rate * gradient / np.sqrt(squares)
        bias -= rate * error.sum() / np.sqrt(bias_square)
    return QualityModel(weights, bias)
