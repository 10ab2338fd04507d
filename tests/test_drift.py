"""The alarm keeps its promise about calm streams whatever they look like, goes off soon after a change, and misses what it must miss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_serving import make_model

from workshop_lib import WorkshopError, drift, perplexity, tokenization, traffic
from workshop_lib.checkpoints import load_model

SHAPES = {
    "skewed": lambda random, n: random.lognormal(1.5, 0.6, n),
    "two heaps": lambda random, n: np.where(random.random(n) < 0.7, random.normal(2, 0.1, n), random.normal(9, 2.0, n)),
    "heavy": lambda random, n: random.standard_cauchy(n),
}


def highest_sum(scores, slack):
    """Page's statistic another way: the largest sum of a run of neighbouring scores, each less the slack."""
    steps = np.concatenate([[0.0], np.cumsum(np.asarray(scores) - slack)])
    return float((steps - np.minimum.accumulate(steps)).max())


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(0, 2))
def test_the_sum_is_the_largest_sum_of_neighbours(values, slack):
    curve = drift.cusum(values, slack=slack)
    assert min(curve) >= 0 and max(curve) == pytest.approx(max(0, highest_sum(values, slack)), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("false_alarms", [0.05, 0.2])
def test_no_more_calm_streams_raise_the_alarm_than_promised(shape, false_alarms):
    random, draw = np.random.default_rng(5), SHAPES[shape]
    limit = drift.calibrate(draw(random, 100), false_alarms, horizon=300).limit
    streams = 1_000
    raised = sum(highest_sum(drift.rank_scores(draw(random, 300), draw(random, 100)), 0.5) > limit for _ in range(streams))
    assert raised <= false_alarms * streams + 3 * math.sqrt(false_alarms * (1 - false_alarms) * streams)
    assert raised >= 0.5 * false_alarms * streams  # nor is the promise kept by never going off


@pytest.mark.parametrize("shift, soon", [(1.5, 20), (3, 10)])
def test_a_change_is_noticed_soon_and_more_soon_the_larger_it_is(shift, soon):
    random = np.random.default_rng(0)
    found = drift.rehearse(random.normal(6, 1, 1_500), random.normal(6 + shift, 1, 300))
    assert found["delay_median"] <= soon and found["missed"] == 0 and found["false_alarms"] <= 0.09


def test_what_is_as_easy_as_before_is_missed():
    random = np.random.default_rng(0)
    found = drift.rehearse(random.normal(6, 1, 1_500), random.normal(5.5, 1, 300))
    assert found["missed"] > 0.9 and found["delay_median"] == math.inf


def test_one_odd_request_raises_no_alarm_and_a_repeated_calm_one_neither():
    alarm = drift.calibrate(np.random.default_rng(0).normal(6, 1, 200))
    middle = float(np.median(alarm.reference))
    assert alarm.first([middle] * 20 + [1e9] + [middle] * 20) is None
    assert alarm.first([middle] * 500) is None
    assert alarm.first([middle] * 20 + [1e9] * 20) in range(20, 26)


@given(st.lists(st.integers(-50, 50), min_size=20, max_size=80), st.lists(st.integers(-60, 60), min_size=1, max_size=20))
def test_scores_follow_the_order_of_the_values_alone(reference, values):
    scores = drift.rank_scores(values, reference)
    assert (np.diff(scores[np.argsort(values)]) >= 0).all() and np.isfinite(scores).all()
    assert (drift.rank_scores([value**3 for value in values], [value**3 for value in reference]) == scores).all()
    above, below = drift.rank_scores([61, -61], reference)
    assert above == pytest.approx(-below) and above >= max(scores)


@pytest.mark.parametrize("wrong, words", [
    (lambda: drift.calibrate([1.0] * 19), "19개뿐"),
    (lambda: drift.calibrate([1.0] * 30 + [math.nan]), "수가 아닌"),
    (lambda: drift.calibrate([1.0] * 30, false_alarms=0), "0과 1"),
    (lambda: drift.cusum([1.0], std=0), "표준 편차"),
    (lambda: drift.rehearse([1.0] * 100, [2.0]), "100개"),
])  # fmt: skip
def test_what_cannot_be_calibrated_is_refused(wrong, words):
    with pytest.raises(WorkshopError, match=words):
        wrong()


def test_bits_are_those_of_each_text_alone_also_of_one_longer_than_the_context(tmp_path):
    folder = make_model(tmp_path / "model", 64)
    model, tokenizer = load_model(folder).eval(), tokenization.load(folder)
    texts = traffic.inputs("story", 9) + ["가", "hello", "긴 글이다. " * 25]
    assert len(tokenizer(texts[-1], add_special_tokens=False, verbose=False)["input_ids"]) > 64
    found = drift.bits_per_character(model, tokenizer, texts)
    assert found == pytest.approx([_bits(model, tokenizer, text) for text in texts], rel=1e-4)
    whole = perplexity.of_model(model, tokenizer, texts[:1])  # with </s>
    assert found[0] * len(texts[0]) < whole["nats"] / math.log(2)
    with pytest.raises(WorkshopError, match="1번째 글이 비어"):
        drift.bits_per_character(model, tokenizer, ["가", ""])


def _bits(model, tokenizer, text):
    """One token after another, window by window."""
    ids, nats = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 0.0
    for start in range(0, len(ids), 64):
        row = [tokenizer.bos_token_id, *ids[start : start + 64]]
        for place in range(1, len(row)):
            with torch.no_grad():
                nats -= float(model(torch.tensor([row[:place]]))[0, -1].log_softmax(-1)[row[place]])
    return nats / math.log(2) / len(text)
