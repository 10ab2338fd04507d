"""The n-gram model is a probability, and equals a second, independent implementation with dictionaries."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from workshop_lib import WorkshopError, ngram

BOS, EOS, VOCABULARY = 0, 1, 12


def stream(documents: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    tokens = []
    for _ in range(documents):
        tokens.append(BOS)
        token = int(random.integers(2, VOCABULARY))
        for _ in range(int(random.integers(2, 12))):
            tokens.append(token)
            token = 2 + (token * 3 + int(random.integers(3))) % (VOCABULARY - 2)
        tokens.append(EOS)
    return np.array(tokens)


class Dictionaries:
    """Interpolated modified Kneser-Ney, written the slow way: one dictionary an order, one recursion."""

    def __init__(self, tokens, order, vocabulary, bos):
        self.vocabulary, self.bos, self.order = vocabulary, bos, order
        documents, current = [], []
        for token in tokens.tolist():
            if token == bos and current:
                documents.append(current)
                current = []
            current.append(token)
        documents.append(current)
        raw = defaultdict(Counter)
        for document in documents:
            for n in range(1, order + 1):
                for i in range(len(document) - n + 1):
                    raw[n][tuple(document[i : i + n])] += 1
        self.counts = {}
        for n in range(1, order + 1):
            counts = dict(raw[n])
            if n < order:
                left = defaultdict(set)
                for gram in raw[n + 1]:
                    left[gram[1:]].add(gram[0])
                counts = {g: c if bos is not None and g[0] == bos else len(left[g]) for g, c in counts.items()}
            if n == 1 and bos is not None:
                counts[(bos,)] = 0
            self.counts[n] = counts
        self.discounts = {}
        for n, counts in self.counts.items():
            m = Counter(counts.values())
            if m[1] and m[2]:
                y = m[1] / (m[1] + 2 * m[2])
                d = [1 - 2 * y * m[2] / m[1], 2 - 3 * y * m[3] / m[2]]
                d.append(3 - 4 * y * m[4] / m[3] if m[3] else d[1])
                d = [min(max(x, 0.05), top) for x, top in zip(d, (0.95, 1.9, 2.85))]
            else:
                d = [0.5, 0.5, 0.5]
            self.discounts[n] = d

    def taken(self, n, count):
        return min(count, [0, *self.discounts[n]][min(count, 3)])

    def probability(self, context, token):
        n = len(context) + 1
        lower = 1 / self.vocabulary if n == 1 else self.probability(context[1:], token)
        followers = [c for gram, c in self.counts[n].items() if gram[:-1] == context]
        if not sum(followers):
            return lower
        count = self.counts[n].get((*context, token), 0)
        left = sum(self.taken(n, c) for c in followers)
        return (count - self.taken(n, count) + left * lower) / sum(followers)

    def context(self, tokens, i):
        context = tokens[max(i - self.order + 1, 0) : i]
        if self.bos in context:
            context = context[len(context) - 1 - context[::-1].index(self.bos) :]
        return tuple(context)


@pytest.mark.parametrize("bos", [BOS, None], ids=["documents", "one stream"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_an_independent_implementation(order, bos):
    train, test = stream(120, 0), stream(15, 1)
    model, slow = ngram.fit(train, order, VOCABULARY, bos), Dictionaries(train, order, VOCABULARY, bos)
    scores = model.log_probabilities(test)
    for i, token in enumerate(test.tolist()):
        if token == bos:
            assert scores[i] == 0
        else:
            wanted = slow.probability(slow.context(test.tolist(), i), token)
            assert math.exp(scores[i]) == pytest.approx(wanted, rel=1e-9), i


@pytest.mark.parametrize("bos", [BOS, None], ids=["documents", "one stream"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one_and_agree_with_the_scores(order, bos):
    model, test = ngram.fit(stream(60, 0), order, VOCABULARY, bos), stream(10, 5)
    scores = model.log_probabilities(test)
    for i in range(len(test)):
        shares = model.distribution(test[:i])
        assert shares.sum() == pytest.approx(1, abs=1e-12) and shares.min() > 0
        if test[i] != bos:
            assert math.log(shares[test[i]]) == pytest.approx(scores[i], abs=1e-9)


def test_longer_orders_help_where_the_text_has_memory():
    train, test = stream(2000, 0), stream(100, 1)
    characters = len(test)
    bits = [ngram.fit(train, order, VOCABULARY, BOS).bits_per_char(test, characters) for order in (1, 2, 3)]
    assert bits[0] > bits[1] + 0.5 and abs(bits[1] - bits[2]) < 0.1  # a first-order chain


def test_a_single_token_and_unseen_contexts_are_no_trouble():
    model = ngram.fit([3], 5, 8)
    assert model.distribution([1, 2]).sum() == pytest.approx(1)
    assert np.isfinite(model.log_probabilities([7, 7, 7, 3])).all()


def test_uint16_tokens_do_not_overflow():
    tokens = np.array([60_000, 60_001] * 50, dtype=np.uint16)
    model = ngram.fit(tokens, 3, 65_000)
    assert model.distribution([60_000])[60_001] > 0.6  # 0.5 is the discount of so small a text


def test_bits_per_char():
    assert ngram.bits_per_char(math.log(2) * 30, 10) == pytest.approx(3)
    with pytest.raises(WorkshopError, match="문자"):
        ngram.bits_per_char(1.0, 0)


@pytest.mark.parametrize(
    "tokens, order, message", [([], 2, "하나도 없다"), ([1, 99], 2, "토큰 번호 99"), ([1, 2], 0, "1 이상")]
)
def test_bad_input_is_refused(tokens, order, message):
    with pytest.raises(WorkshopError, match=message):
        ngram.fit(tokens, order, 10)
