"""Laws that are there are found, intervals hold what they promise, and the arithmetic agrees with real tensors."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pretraining import TINY, VOCABULARY, documents, tokens
from transformers import LlamaConfig, LlamaForCausalLM

from workshop_lib import WorkshopError, belief, inference, outlook, packing, pretraining, scaling
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.transformer import Transformer, TransformerConfig

SIZES = np.geomspace(1e5, 3.2e6, 6)


@given(st.floats(0.1, 100), st.floats(0.01, 1), st.lists(st.floats(10, 1e8), min_size=2, max_size=8, unique=True))
def test_a_straight_law_is_recovered(scale, exponent, sizes):
    sizes = [1.0, 2.0, *sizes]
    found = scaling.power_law(sizes, [scale * size**-exponent for size in sizes])
    assert found == (pytest.approx(scale, rel=1e-6), pytest.approx(exponent, rel=1e-6, abs=1e-9))


def test_the_line_is_that_of_numpy():
    random = np.random.default_rng(0)
    losses = 5 * SIZES**-0.1 * np.exp(0.1 * random.standard_normal(6))
    slope, intercept = np.polyfit(np.log(SIZES), np.log(losses), 1)
    assert scaling.power_law(SIZES, losses) == (pytest.approx(math.exp(intercept)), pytest.approx(-slope))


def test_the_interval_widens_with_the_distance_and_spans_both_forms():
    losses = 0.5 + 40 * SIZES**-0.3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(6))
    rows = outlook.forecast(SIZES, losses, [3.2e7, 3.2e8, 3.2e9], scatter=0.01)
    widths = [row["high"] - row["low"] for row in rows]
    assert widths == sorted(widths) and widths[-1] > 2 * widths[0]
    for row in rows:
        assert row["low"] <= min(row["line_low"], row["floor_low"]) and row["high"] >= max(row["line_high"], row["floor_high"])
        assert row["line_low"] < row["line"] < row["line_high"] and row["floor"] >= row["line"] - 1e-9


TRUTHS = {
    "a straight line": lambda size: 30 * size**-0.25,
    "a floor": lambda size: 0.8 + 30 * size**-0.25,
    "a line that breaks": lambda size: 4 * size**-0.05 * (1 + (size / 1e6) ** 2) ** -0.15,  # as where a small world is being mastered
}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_the_interval_holds_the_next_run_as_often_as_it_says(truth):
    """Ten times further than was measured; the spread between seeds is known."""
    random, held, trials, scatter = np.random.default_rng(1), 0, 30, 0.01
    for trial in range(trials):
        losses = truth(SIZES) * np.exp(scatter * random.standard_normal(6))
        row = outlook.forecast(SIZES, losses, [10 * SIZES[-1]], scatter, seed=trial)[0]
        held += row["low"] <= truth(10 * SIZES[-1]) * math.exp(scatter * random.standard_normal()) <= row["high"]
    assert held >= 0.9 * trials - 2 * math.sqrt(0.09 * trials)


def test_a_broken_law_is_outside_the_interval_that_believes_in_lines():
    """Why the interval is widened: the runs' distances from a line that goes on say little about one that bends."""
    row = outlook.forecast(SIZES, TRUTHS["a line that breaks"](SIZES), [10 * SIZES[-1]], scatter=0.02)[0]
    actual = TRUTHS["a line that breaks"](10 * SIZES[-1])
    assert not row["line_low"] <= actual <= row["line_high"] and row["low"] <= actual <= row["high"]


def test_a_backtest_foretells_each_later_size_from_those_before():
    sizes, losses = [1.0, 2.0, 2.0, 4.0, 8.0, 16.0], [8.0, 3.9, 4.1, 2.0, 1.0, 1.0]  # 8 / size, then no further
    rows = outlook.backtest(sizes[::-1], losses[::-1])
    assert [(row["runs"], row["size"]) for row in rows] == [(3, 8.0), (3, 16.0), (4, 16.0)]
    assert [row["foretold"] for row in rows] == pytest.approx([1.0, 0.5, 0.5]) and [row["actual"] for row in rows] == [1, 1, 1]
    assert [row["error_per_fold"] for row in rows] == pytest.approx([0, 0.5, 1.0], abs=1e-9)  # ln 2 over ln 4, and over ln 2
    with pytest.raises(WorkshopError, match="4개"):
        outlook.backtest([1, 2, 3, 3], [3, 2, 1, 1])


def test_history_is_read_and_a_broken_one_named(tmp_path):
    rows = [{"tokens": 100 * n, "val_bpc": 3.0 / n, "loss": 1.0} for n in (1, 2, 3)]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert outlook.history(tmp_path) == ([100, 200, 300], [3.0, 1.5, 1.0])
    (tmp_path / "history.jsonl").write_text('{"step": 1}', encoding="utf-8")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(WorkshopError, match="history.jsonl"):
            outlook.history(folder)


def test_a_sweep_of_lengths_trains_each_to_its_own_end():
    encoded = [packing.Encoded((1, *(9 + i % 40 for i in range(k, k + 20)), 2), 20, "s") for k in range(len(documents(8)))]
    validation = packing.validation_windows(encoded, TINY.context)
    make = lambda: pretraining.new_model(TINY, VOCABULARY).cpu()  # noqa: E731
    rows = outlook.length_sweep(make, tokens(), TINY, (4, 8, 24), validation, seeds=(0, 1))
    assert [(row["steps"], row["seed"]) for row in rows] == [(4, 0), (4, 1), (8, 0), (24, 0)]
    assert rows[-1]["tokens"] == 24 * TINY.batch_size * TINY.context and rows[-1]["val_bpc"] < rows[0]["val_bpc"]


SHAPES = st.builds(
    lambda heads, groups, layers, width, tied, vocabulary: dict(
        vocab_size=vocabulary, hidden_size=heads * groups * 8, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=heads * groups, num_key_value_heads=heads, max_position_embeddings=64, tie_word_embeddings=tied,
    ),
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(5, 40), st.booleans(), st.integers(20, 90),
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.integers(1, 40), st.integers(1, 3))
def test_parameters_and_cache_are_those_of_real_models(shape, length, batch):
    ours = TransformerConfig(**shape)
    model = Transformer(ours)
    theirs = LlamaForCausalLM(LlamaConfig(**shape))
    assert outlook.parameters(ours) == outlook.parameters(theirs.config) == model.num_parameters() == theirs.num_parameters()
    _, state = model.prefill(torch.zeros(batch, length, dtype=torch.long))
    assert outlook.cache_bytes(ours, length, batch) <= state_bytes(state)
    kept = theirs(torch.zeros(batch, length, dtype=torch.long), use_cache=True).past_key_values
    held = sum(part.numel() * part.element_size() for layer in kept.layers for part in (layer.keys, layer.values))
    assert outlook.cache_bytes(theirs.config, length, batch) == held


def test_the_cache_that_was_measured_is_the_cache_that_was_reckoned():
    config = TransformerConfig(60, 32, 48, 2, 4, 2, max_position_embeddings=16)
    lengths = (8, 32, 100)
    measured = [row["cache_bytes"] for row in inference.decode_costs(Transformer(config), lengths, repeats=1)]
    rows = outlook.context_rows(config, lengths)
    assert [row["cache_bytes"] for row in rows] == measured
    assert 0 < rows[0]["attention_share"] < rows[1]["attention_share"] < rows[2]["attention_share"] < 1
    assert rows[2]["cache_share"] == measured[2] / (4 * outlook.parameters(config))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 9), st.integers(1, 3))
def test_a_picture_takes_a_token_a_square(height, width, patch, merge):
    side = patch * merge
    squares = {(y // side, x // side) for y in range(height) for x in range(width)}
    assert outlook.image_tokens(height, width, patch, merge) == len(squares)


def test_known_pictures():
    assert outlook.image_tokens(224, 224, 16) == 196  # ViT-B/16
    assert outlook.image_tokens(336, 336) == 576  # LLaVA 1.5


@pytest.mark.parametrize("difference, discordant", [(0.1, 1.0), (0.1, 0.3), (-0.2, 0.5)])
def test_so_many_pairs_find_the_difference_four_times_in_five(difference, discordant):
    n = outlook.pairs_needed(difference, discordant)
    random = np.random.default_rng(0)
    won, lost = (discordant + difference) / 2, (discordant - difference) / 2
    draws = random.multinomial(n, [won, lost, max(0.0, 1 - won - lost)], size=20_000)
    z = (draws[:, 0] - draws[:, 1]) / np.sqrt(np.maximum(1, draws[:, 0] + draws[:, 1]))  # McNemar
    assert np.mean(np.abs(z) > 1.959964) == pytest.approx(0.8, abs=0.025)


def test_pairs_need_fewer_questions_than_two_groups():
    assert outlook.pairs_needed(0.1, 0.3) < 2 * belief.answers_needed(0.5, 0.6)
    assert outlook.pairs_needed(0.1) == 783  # 55 % to 45 %: Φ⁻¹ of 0.975 and 0.8, by hand


@pytest.mark.parametrize("wrong", [
    lambda: outlook.pairs_needed(0), lambda: outlook.pairs_needed(0.5, 0.3), lambda: outlook.pairs_needed(0.1, power=1),
    lambda: outlook.image_tokens(0, 10), lambda: outlook.forecast([1, 2, 3], [3, 2, 1], [10]),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(WorkshopError):
        wrong()
