"""Exact and near duplicates: MinHash and LSH against brute force."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib.cleaning import near_duplicates as nd

settings.register_profile("near_duplicates", deadline=None, max_examples=50)
settings.load_profile("near_duplicates")

TEXT = st.text(alphabet="가나다라마 .\n", max_size=40)


def _variants(count: int, seed: int = 0) -> list[str]:
    """Random texts, each followed by a copy in which some syllables are replaced."""
    rng = random.Random(seed)
    texts = []
    for index in range(count):
        base = [chr(0xAC00 + rng.randrange(11_172)) for _ in range(150)]
        copy = [chr(0xAC00 + rng.randrange(11_172)) if rng.random() < index / count * 0.2 else c for c in base]
        texts += ["".join(base), "".join(copy)]
    return texts


# --- exact --------------------------------------------------------------------------------------------------


def test_the_first_of_equal_texts_stays():
    assert nd.drop_exact_duplicates(["가 나", "다", "가나", "다!", "라", "DA", "da"]) == [0, 1, 4, 5]


@given(st.lists(TEXT, max_size=12))
def test_exact_keeps_one_of_each_and_is_idempotent(texts):
    kept = nd.drop_exact_duplicates(texts)
    keys = [nd.content_key(texts[i]) for i in kept]
    assert len(set(keys)) == len(keys) == len({nd.content_key(t) for t in texts})
    assert kept == sorted(kept) and nd.drop_exact_duplicates([texts[i] for i in kept]) == list(range(len(kept)))


def test_signs_alone_are_told_apart():
    assert nd.content_key("!!") != nd.content_key("??") != nd.content_key("")


# --- shingles and Jaccard ----------------------------------------------------------------------------------


def test_shingles():
    assert nd.shingles("가나 다라", 3) == {"가나다", "나다라"}
    assert nd.shingles("가", 3) == {"가"} and nd.shingles(" \n", 3) == set()
    assert nd.jaccard({"a", "b"}, {"b", "c"}) == pytest.approx(1 / 3) and nd.jaccard(set(), set()) == 1.0


@given(TEXT, TEXT, st.integers(1, 5))
def test_jaccard_against_scikit_learn(a, b, size):
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = nd.shingles(a, size), nd.shingles(b, size)
    universe = sorted(first | second)
    if universe:
        vectors = [[gram in s for gram in universe] for s in (first, second)]
        assert nd.jaccard(first, second) == pytest.approx(metrics.jaccard_score(*vectors))


@given(st.lists(TEXT, max_size=6), st.integers(1, 5))
def test_vectorised_hashes_are_those_of_the_sets(texts, size):
    """Text by text, the hashes made at once are as many different ones as there are shingles, and equal for equal sets."""
    hashes, starts = nd.shingle_hashes(texts, size)
    parts = np.split(hashes, starts[1:]) if len(texts) else []
    assert len(parts) == len(texts)
    for text, part in zip(texts, parts):
        assert len(set(part.tolist())) == max(1, len(nd.shingles(text, size)))
    for (a, x), (b, y) in itertools.combinations(zip(texts, parts), 2):
        assert (set(x.tolist()) == set(y.tolist())) == (nd.shingles(a, size) == nd.shingles(b, size))


# --- MinHash ------------------------------------------------------------------------------------------------


def test_estimate_is_unbiased_and_its_error_is_the_binomial():
    texts = _variants(40)
    truth = np.array([nd.jaccard(nd.shingles(a), nd.shingles(b)) for a, b in itertools.batched(texts, 2)]
                     if hasattr(itertools, "batched") else
                     [nd.jaccard(nd.shingles(texts[i]), nd.shingles(texts[i + 1])) for i in range(0, len(texts), 2)])
    estimates = []
    for seed in range(20):
        signatures = nd.minhash(texts, *nd.hash_functions(120, seed))
        estimates.append(nd.estimated_jaccard(signatures[::2], signatures[1::2]))
    estimates = np.array(estimates)                       # (seeds, pairs)
    error = np.sqrt(truth * (1 - truth) / 120)
    assert np.abs(estimates.mean(0) - truth).max() < 4.5 * (error / np.sqrt(20)).max()
    inner = (truth > 0.1) & (truth < 0.9)
    assert estimates.std(0)[inner].mean() == pytest.approx(error[inner].mean(), rel=0.25)


def test_minimum_really_is_the_minimum():
    a, b = nd.hash_functions(7, 3)
    text = "가나다라마바사아자차"
    hashes, _ = nd.shingle_hashes([text])
    by_hand = [min((int(h) * int(x) + int(y)) % 2**64 >> 32 for h in hashes) for x, y in zip(a, b)]
    assert nd.minhash([text], a, b)[0].tolist() == by_hand


def test_signature_does_not_depend_on_the_chunk():
    texts, hashing = _variants(5), nd.hash_functions(16)
    whole = nd.minhash(texts, *hashing)
    assert np.array_equal(whole, np.concatenate([nd.minhash([t], *hashing) for t in texts]))
    assert np.array_equal(whole, [nd.minhash_signature(nd.shingle_hashes([t])[0], *hashing) for t in texts])
    assert nd.minhash([], *hashing).shape == (0, 16)


# --- LSH ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3))
def test_candidates_against_brute_force(seed, bands, rows):
    signatures = np.random.default_rng(seed).integers(0, 3, (12, bands * rows), dtype=np.uint32)
    want = {(i, j) for i, j in itertools.combinations(range(12), 2)
            if any((signatures[i, s:s + rows] == signatures[j, s:s + rows]).all() for s in range(0, bands * rows, rows))}
    assert {tuple(pair) for pair in nd.candidate_pairs(signatures, bands, rows).tolist()} == want


def test_s_curve_is_what_happens():
    rng = np.random.default_rng(0)
    for similarity in (0.4, 0.6, 0.8):
        first = rng.integers(0, 2**32, (4_000, 120), dtype=np.uint32)
        second = np.where(rng.random((4_000, 120)) < similarity, first, rng.integers(0, 2**32, (4_000, 120), dtype=np.uint32))
        shares_band = (first == second).reshape(4_000, 20, 6).all(2).any(1).mean()
        assert shares_band == pytest.approx(nd.candidate_probability(similarity, 20, 6), abs=0.03)


def test_near_duplicates_against_brute_force():
    texts = _variants(60, seed=1)
    removed = nd.drop_near_duplicates(nd.minhash(texts, *nd.hash_functions(120)), 20, 6, 0.7)
    sure = set()
    for i, j in itertools.combinations(range(len(texts)), 2):
        similarity = nd.jaccard(nd.shingles(texts[i]), nd.shingles(texts[j]))
        if similarity > 0.85:
            sure.add(j)
        if removed.get(j) == i:
            assert similarity > 0.5
    assert sure and sure <= set(removed)
    assert all(i < j and i not in removed for j, i in removed.items())


def test_the_removed_always_have_a_kept_twin():
    """A chain A≈B≈C in which A and C differ loses B only."""
    base = np.arange(100, dtype=np.uint32)
    chain = np.stack([base, np.where(base < 20, base + 1_000, base), np.where(base < 40, base + 1_000, base)])
    assert nd.drop_near_duplicates(chain, 20, 5, 0.75) == {1: 0}


def test_a_crowd_of_equal_signatures_is_quick():
    signatures = np.zeros((5_000, 120), dtype=np.uint32)
    assert len(nd.candidate_pairs(signatures, 20, 6)) <= 64 * 5_000


def test_too_short_signature():
    with pytest.raises(ValueError, match="서명"):
        nd.candidate_pairs(np.zeros((2, 10), np.uint32), 5, 3)


# --- decontamination ----------------------------------------------------------------------------------------


def test_contamination_sees_through_punctuation_and_case():
    grams = nd.benchmark_ngrams(["고래는 물고기가 아니라 새끼를 낳아 젖을 먹이는 동물이다"], 5)
    assert nd.contaminated("알다시피, 고래는 물고기가 아니라 '새끼를 낳아' 젖을 먹인다.", grams, 5) == "고래는 물고기가 아니라 새끼를 낳아"
    assert nd.contaminated("고래는 물고기가 아니다. 새끼를 낳는다.", grams, 5) is None
    assert nd.contaminated("무엇이든", frozenset(), 5) is None
    assert nd.word_ngrams("하나 둘", 3) == []
