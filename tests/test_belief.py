"""Intervals and tests between models, each held to SciPy's implementation or to a simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workshop_lib import WorkshopError
from workshop_lib.belief import answers_needed
from workshop_lib.evaluation import bootstrap_interval, mcnemar, paired_bootstrap, wilson_interval


@settings(deadline=None)
@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_is_scipys(case, confidence):
    correct, total = case
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(0, total, confidence)[0] == 0.0 and wilson_interval(total, total, confidence)[1] == 1.0  # not 1e-17


def test_wilson_covers_the_truth_where_the_textbook_interval_does_not():
    n, p = 20, 0.03
    counts = np.random.default_rng(0).binomial(n, p, 4_000)
    share = counts / n
    half = 1.96 * np.sqrt(share * (1 - share) / n)
    textbook = np.mean((share - half <= p) & (p <= share + half))
    wilson = np.mean([low <= p <= high for low, high in (wilson_interval(int(k), n) for k in counts)])
    assert wilson > 0.93 and textbook < 0.6


@pytest.mark.parametrize("correct, total, confidence, words", [
    (0, 0, 0.95, "구간을 계산할 수 없다"), (-1, 5, 0.95, "0과 문항 수 5 사이"), (6, 5, 0.95, "0과 문항 수 5 사이"), (1, 5, 95, "신뢰 수준"),
])
def test_wilson_refuses(correct, total, confidence, words):
    with pytest.raises(WorkshopError, match=words):
        wilson_interval(correct, total, confidence)


def test_bootstrap_is_scipys():
    values = np.random.default_rng(1).gamma(2, size=80)
    for statistic in (None, np.std):
        other = stats.bootstrap((values,), statistic or np.mean, method="percentile", n_resamples=8_000, rng=np.random.default_rng(3))
        assert bootstrap_interval(values, statistic, 8_000) == pytest.approx(tuple(other.confidence_interval), abs=0.03)


def test_bootstrap_of_right_and_wrong_agrees_with_wilson():
    answers = [True] * 620 + [False] * 380
    assert bootstrap_interval(answers) == pytest.approx(wilson_interval(620, 1_000), abs=0.004)


def test_bootstrap_draws_whole_rows():
    x = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(np.stack([x, 2 * x], axis=1), lambda rows: np.corrcoef(rows.T)[0, 1], 200)
    assert low == pytest.approx(1) and high == pytest.approx(1)


def test_bootstrap_is_the_same_again_and_other_with_another_seed():
    values = list(range(50))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_mcnemar_is_scipys_binomial_test(pairs):
    first, second = zip(*pairs)
    b, c = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (b, c)
    assert found.p_value == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_many_items_does_not_overflow():
    assert 0 <= mcnemar([True] * 9_000 + [False] * 8_000, [False] * 9_000 + [True] * 8_000).p_value < 1e-12


def test_paired_bootstrap_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)  # items differ far more than the models
    first, second = hard + 0.1 + rng.normal(0, 0.3, 300), hard + rng.normal(0, 0.3, 300)
    found = paired_bootstrap(first, second)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert 0 < found.low < found.difference < found.high and found.p_value < 0.01
    assert paired_bootstrap(first + 5, second, resamples=199).p_value == pytest.approx(2 / 200)  # the data itself counts: never 0
    a, b = bootstrap_interval(first), bootstrap_interval(second)
    assert a[0] < b[1]  # the two intervals overlap widely
    expected = stats.bootstrap((first, second), lambda x, y: np.mean(x) - np.mean(y), paired=True, vectorized=False,
                               method="percentile", n_resamples=2_000, rng=np.random.default_rng(5)).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)


def test_paired_bootstrap_with_a_statistic_and_without_difference():
    values = np.random.default_rng(0).normal(size=100)
    found = paired_bootstrap(values, values, np.median, 200)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert paired_bootstrap(values, values + 0.1, lambda x: float(np.mean(x)), 300, seed=4).difference == pytest.approx(-0.1)


@pytest.mark.parametrize("call", [lambda: mcnemar([True], [True, False]), lambda: paired_bootstrap([1.0], [1.0, 2.0])])
def test_two_models_must_have_answered_the_same_items(call):
    with pytest.raises(WorkshopError, match="같은 문항"):
        call()


@pytest.mark.parametrize("call", [lambda: mcnemar([], []), lambda: bootstrap_interval([]), lambda: paired_bootstrap([], [])])
def test_no_items(call):
    with pytest.raises(WorkshopError, match="하나도 없어"):
        call()


@pytest.mark.parametrize("before, after, power", [(0.5, 0.6, 0.8), (0.3, 0.5, 0.9), (0.9, 0.8, 0.8)])
def test_with_the_answers_needed_a_difference_is_found_as_often_as_promised(before, after, power):
    n, rng = answers_needed(before, after, power=power), np.random.default_rng(0)
    first, second = rng.binomial(n, before, 20_000) / n, rng.binomial(n, after, 20_000) / n
    spread = np.sqrt(first * (1 - first) / n + second * (1 - second) / n)
    assert np.mean(np.abs(second - first) > stats.norm.ppf(0.975) * spread) == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize("before, after, levels, words", [
    (0.5, 0.5, {}, "서로 다르고"), (0.0, 0.5, {}, "0과 1 사이"), (0.5, 1.0, {}, "0과 1 사이"), (0.5, 0.6, {"power": 80}, "신뢰 수준"),
])  # fmt: skip
def test_answers_needed_refuses(before, after, levels, words):
    with pytest.raises(WorkshopError, match=words):
        answers_needed(before, after, **levels)
