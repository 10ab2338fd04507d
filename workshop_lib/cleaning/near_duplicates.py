"""Duplicates: exact ones by a hash of the text, near ones by MinHash and locality-sensitive hashing.

Sources: Broder 1997 (resemblance, shingles, min-wise hashing); Leskovec, Rajaraman & Ullman, Mining of Massive
Datasets, chapter 3 (bands and the S-curve); Lee et al. 2021 (arXiv 2107.06499) for language-model corpora.

Shingles are character n-grams without white space: Korean writers disagree about spacing, and copies often
differ in nothing else.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

_NOT_WORD = re.compile(r"[\W_]+")


def content_key(text: str) -> int:
    """64-bit key equal for texts that differ only in spacing, punctuation and letter case.

    Texts with neither letters nor digits are keyed by what is left after removing white space.
    """
    content = _NOT_WORD.sub("", text).casefold() or "".join(text.split())
    return int.from_bytes(hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def drop_exact_duplicates(texts: Sequence[str]) -> list[int]:
    """Indices of the texts to keep: of equal ones (by `content_key`) the first."""
    seen: set[int] = set()
    kept = []
    for index, text in enumerate(texts):
        key = content_key(text)
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return kept


def shingles(text: str, size: int = 5) -> set[str]:
    """Character n-grams of the text without white space; a text shorter than `size` is one shingle itself."""
    text = "".join(text.split())
    if not text:
        return set()
    return {text[i:i + size] for i in range(max(1, len(text) - size + 1))}


def jaccard(a: set, b: set) -> float:
    """|a ∩ b| / |a ∪ b|; two empty sets are alike (1.0)."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0


def hash_functions(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Odd multipliers and offsets, each (count,) uint64, of strongly universal multiply-shift hashing
    (Dietzfelbinger 1996): h(x) = ((a·x + b) mod 2⁶⁴) >> 32 for 32-bit x."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2**64, size=(2, count), dtype=np.uint64)
    return a | np.uint64(1), b


def _mix(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: spreads every input bit over the word. In and out: uint64."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingle_hashes(texts: Sequence[str], size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all shingles of many texts at once, without a Python loop over characters.

    Returns (hashes (total,) uint64 below 2³², starts (len(texts),) int64): text i owns
    hashes[starts[i]:starts[i+1]]. Every text has at least one; an empty text gets the hash of nothing.
    """
    squeezed = ["".join(text.split()) for text in texts]
    # Padding to `size` makes a short text one shingle, as in `shingles`; U+0000 never occurs in clean text.
    padded = [text + "\0" * (size - len(text)) for text in squeezed]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    joined = "".join(padded).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(joined, dtype=np.uint32).astype(np.uint64)
    if not len(codes):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    total = len(codes) - size + 1
    hashes = np.zeros(total, np.uint64)
    for offset in range(size):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset:offset + total] + np.uint64(1)
    ends = np.cumsum(lengths)
    owner_end = np.repeat(ends, lengths)[:total]
    inside = np.arange(total) + size <= owner_end         # windows that cross into the next text are dropped
    starts = np.concatenate([[0], np.cumsum(lengths - size + 1)[:-1]])
    return _mix(hashes[inside]) >> np.uint64(32), starts


def minhash_signature(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Signature (k,) uint32 of one set of shingle hashes (n,) uint64, n ≥ 1: the minimum under each of the k hash
    functions h(x) = ((a·x + b) mod 2⁶⁴) >> 32. What `minhash` does for many texts at once."""
    values = (hashes[None, :] * a[:, None] + b[:, None]) >> np.uint64(32)        # (k, n)
    return values.min(axis=1).astype(np.uint32)


def minhash(texts: Sequence[str], a: np.ndarray, b: np.ndarray, size: int = 5) -> np.ndarray:
    """Signatures (len(texts), len(a)) uint32: for each hash function the smallest hash of the text's shingles.

    Two signatures agree at a place with probability jaccard(shingles, shingles).
    """
    hashes, starts = shingle_hashes(texts, size)
    signatures = np.empty((len(texts), len(a)), dtype=np.uint32)
    for column in range(len(a)):
        values = ((hashes * a[column] + b[column]) >> np.uint64(32)).astype(np.uint32)
        if len(texts):
            signatures[:, column] = np.minimum.reduceat(values, starts)
    return signatures


def estimated_jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Share of places where signatures agree; standard error √(J(1−J)/k) for k hash functions."""
    return (first == second).mean(axis=-1)


def candidate_probability(similarity: np.ndarray | float, bands: int, rows: int) -> np.ndarray | float:
    """The S-curve 1 − (1 − sʳ)ᵇ: chance that two texts of Jaccard similarity s share a band."""
    return 1 - (1 - similarity ** rows) ** bands


def candidate_pairs(signatures: np.ndarray, bands: int, rows: int, window: int = 64) -> np.ndarray:
    """Pairs (n, 2) of rows i < j that agree in at least one band, sorted, each once.

    Band keys are sorted and neighbours compared, which needs a few bytes a text where a hash table needs hundreds.
    In a bucket of more than `window` texts only texts within `window` places of each other are paired:
    all pairs of a bucket of a million would never end.
    """
    if signatures.shape[1] < bands * rows:
        raise ValueError(f"서명 길이 {signatures.shape[1]}이(가) bands × rows = {bands * rows}보다 짧다")
    count = max(len(signatures), 1)
    found = np.zeros(0, np.int64)                         # a pair as one number, i · count + j
    for band in range(bands):
        part = signatures[:, band * rows:(band + 1) * rows].astype(np.uint64)
        keys = np.zeros(len(part), np.uint64)
        for column in range(rows):
            keys = _mix(keys + part[:, column] + np.uint64(column + 1))
        order = np.argsort(keys, kind="stable")           # stable: inside a bucket the earlier text comes first
        keys = keys[order]
        here = [found]
        for distance in range(1, min(window, len(keys) - 1) + 1):
            same = keys[distance:] == keys[:-distance]
            if not same.any():
                break
            here.append(order[:-distance][same] * count + order[distance:][same])
        found = np.unique(np.concatenate(here))
    return np.stack([found // count, found % count], axis=1)


def drop_near_duplicates(signatures: np.ndarray, bands: int, rows: int, threshold: float) -> dict[int, int]:
    """{removed index: kept index it resembles}. Every removed text has a *kept* twin with an estimated
    similarity ≥ threshold; of twins the earlier stays. Clusters do not chain: A≈B, B≈C removes B only, unless A≈C.
    """
    pairs = candidate_pairs(signatures, bands, rows)
    twins: dict[int, int] = {}
    alike = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), 65536):             # in slices: the comparison is (pairs, hashes) large
        part = pairs[start:start + 65536]
        alike[start:start + 65536] = estimated_jaccard(signatures[part[:, 0]], signatures[part[:, 1]]) >= threshold
    pairs = pairs[alike]
    for i, j in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if j not in twins and i not in twins:
            twins[j] = i
    return twins


# --- decontamination ----------------------------------------------------------------------------------------

_WORD = re.compile(r"\w+")


def word_ngrams(text: str, size: int) -> list[str]:
    """Sequences of `size` words (lower case, punctuation dropped) joined by spaces; shorter texts have none."""
    words = _WORD.findall(text.casefold())
    return [" ".join(words[i:i + size]) for i in range(len(words) - size + 1)]


def benchmark_ngrams(texts: Sequence[str], size: int = 8) -> frozenset[str]:
    """All n-grams of the benchmark texts, to be kept out of the corpus. Eight eojeol of Korean say about as much
    as the thirteen English words of GPT-3 (arXiv 2005.14165, appendix C)."""
    return frozenset(gram for text in texts for gram in word_ngrams(text, size))


def contaminated(text: str, benchmark: frozenset[str], size: int = 8) -> str | None:
    """The first n-gram of the text that also stands in a benchmark, or None."""
    if not benchmark:
        return None
    return next((gram for gram in word_ngrams(text, size) if gram in benchmark), None)
