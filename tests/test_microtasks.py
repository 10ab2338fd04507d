"""Associative recall: the texts, the training loop, and that attention and states part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError, microtasks
from workshop_lib.architectures.families import build_model
from workshop_lib.microtasks import RecallSettings, recall_batch
from workshop_lib.packing import IGNORE

SHORT = replace(RecallSettings(), pairs=4, keys=8, values=8, parameters=40_000, width=32, steps=6, tokens=64, evaluate_every=3)


def test_every_answer_stands_behind_its_key():
    ids, answers = recall_batch(np.random.default_rng(0), texts=20, pairs=6, keys=10, values=5)
    assert ids.shape == answers.shape == (20, 24)
    for row, asked in zip(ids.tolist(), answers.tolist()):
        table = dict(zip(row[0:12:2], row[1:12:2]))
        assert len(table) == 6 and max(table) < 10 <= min(table.values()) and max(table.values()) < 15
        assert asked[:12] == [IGNORE] * 12 and asked[13::2] == [IGNORE] * 6
        assert asked[12::2] == [table[key] for key in row[12::2]] == row[13::2]
    assert any(row[0:12:2] != row[12::2] for row in ids.tolist())


def test_more_pairs_than_keys_is_refused():
    with pytest.raises(WorkshopError, match="쌍 9개"):
        recall_batch(np.random.default_rng(0), 1, pairs=9, keys=8)


def test_the_curriculum_ends_before_the_training():
    settings = RecallSettings()
    pairs = [microtasks.pairs_at(step, settings) for step in range(settings.steps)]
    assert pairs == sorted(pairs) and pairs[0] == 4 and pairs.count(settings.pairs) >= 0.39 * settings.steps
    assert {microtasks.pairs_at(step, SHORT) for step in range(SHORT.steps)} == {4}


def test_a_model_that_looks_up_is_right_and_one_that_guesses_is_not():
    class LookUp(torch.nn.Module):
        def forward(self, ids):
            logits = torch.zeros(*ids.shape, 16)
            for row, text in enumerate(ids.tolist()):
                for place, token in enumerate(text):
                    if token in text[:place]:
                        logits[row, place, text[text.index(token) + 1]] = 1.0
            return logits

    assert microtasks.recall_accuracy(LookUp(), SHORT, texts=8) == 1.0
    guess = build_model("transformer", 16, 40_000, 32, 2, 17, tie_word_embeddings=False)
    assert microtasks.recall_accuracy(guess, SHORT) < 0.6


@pytest.mark.parametrize("name", ["transformer", "hybrid"])
def test_training_is_repeatable_and_says_what_it_measured(name):
    a, b = (microtasks.train_recall(name, SHORT, seed=1) for _ in range(2))
    assert a.history == b.history and [row["step"] for row in a.history] == [3, 6]
    assert a.parameters == pytest.approx(SHORT.parameters, rel=0.05) and a.state_bytes > 0
    assert replace(a, history=({"accuracy": 0.99},)).verdict == "푼다"
    assert replace(a, history=({"accuracy": 0.5},)).verdict == "일부만 푼다"
    assert replace(a, history=({"accuracy": 0.05},)).verdict == "못 푼다"


def test_results_are_said_in_the_order_of_the_names():
    said = []
    found = microtasks.recall(("rnn", "transformer"), SHORT, say=said.append)
    assert [result.name for result in found] == ["rnn", "transformer"] and said[0].startswith("RNN: 정답률")


@pytest.mark.slow
def test_attention_recalls_a_state_does_not_and_the_hybrid_does():
    transformer, state, hybrid = microtasks.recall(("transformer", "mamba2", "hybrid"))
    assert transformer.accuracy > 0.9 and hybrid.accuracy > 0.8 and state.accuracy < 0.3
