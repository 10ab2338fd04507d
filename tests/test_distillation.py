"""What is cut is what matters least, and a pruned model that learns from its teacher beats a fresh one."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.distillation import (
    bpc_difference,
    build_student,
    channel_importance,
    cut_layers,
    cut_neurons,
    cut_width,
    distil,
    distillation_loss,
    first_tokens,
    head_importance,
    layer_importance,
    neuron_importance,
    prune,
    strongest,
    training_settings,
)
from workshop_lib.packing import Encoded, validation_windows
from workshop_lib.pretraining import train

SHAPE = TransformerConfig(vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
                          num_key_value_heads=1, max_position_embeddings=16)
SETTINGS = SimpleNamespace(student_layers=1, student_intermediate=24, distil_steps=40, distil_batch=8, distil_rate=1e-2,
                           scratch_rate=1e-2, temperature=1.0, calibration_windows=4)


def text(length: int, seed: int = 0) -> np.ndarray:
    """A language: each token is one of two that follow the last one, for most of the time."""
    random, ids = np.random.default_rng(seed), [3]
    while len(ids) < length:
        ids.append(int(random.integers(3, 24)) if random.random() < 0.1 else 3 + (ids[-1] * 5 + random.integers(2)) % 21)
    return np.array(ids)


@pytest.fixture
def model():
    model = Transformer(SHAPE, seed=0)
    for parameter in model.parameters():  # large enough that a layer does something
        parameter.data.mul_(5) if parameter.ndim == 2 else parameter.data.add_(0.1 * torch.arange(32) / 32)
    return model


@pytest.fixture
def windows():
    return torch.from_numpy(text(64).reshape(4, 16))


def test_with_nothing_cut_the_copy_computes_the_same(model, windows):
    whole = prune(model, windows, 3, 48), prune(model, windows, 3, 48, 2), cut_width(model, [torch.arange(1)] * 3, torch.arange(32))
    for copy in (*whole, cut_layers(model, [0, 1, 2]), cut_neurons(model, [torch.arange(48)] * 3)):
        assert copy is not model and torch.equal(copy(windows), model(windows))


def test_a_layer_or_neuron_that_does_nothing_is_the_first_to_go(model, windows):
    block = model.model.layers[1]
    for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
        matrix.weight.data.zero_()
    rises = layer_importance(model, windows)
    assert rises.shape == (3,) and float(rises[1]) == pytest.approx(0, abs=1e-6) and rises.abs().argmin() == 1
    shallower = cut_layers(model, [0, 2])
    torch.testing.assert_close(shallower(windows), model(windows))

    silent = [torch.arange(0, 48, 2), torch.arange(10, 34)]  # of each layer that is left, half its neurons
    for block, neurons in zip(shallower.model.layers, silent):
        block.mlp.up_proj.weight.data[neurons] = 0
    scores = neuron_importance(shallower, windows)
    assert scores.shape == (2, 48)
    assert all(not row[neurons].any() for row, neurons in zip(scores, silent))
    small = prune(shallower, windows, 2, 24)
    assert small.config == replace(SHAPE, num_hidden_layers=2, intermediate_size=24)
    torch.testing.assert_close(small(windows), shallower(windows))


@pytest.mark.parametrize("shared", [1, 2])
def test_silent_heads_and_channels_go_and_nothing_changes(windows, shared):
    model = Transformer(replace(SHAPE, num_attention_heads=4, num_key_value_heads=4 // shared, rms_norm_eps=1e-12), seed=1)
    decoder, silent = model.model, torch.tensor([1, *range(4, 19)])  # of 32 channels; and of each layer two heads of four
    for parameter in model.parameters():
        parameter.data.mul_(5) if parameter.ndim == 2 else None
    decoder.embed_tokens.weight.data[:, silent] = 0
    for number, block in enumerate(decoder.layers):
        quiet = [(0, 1), (2, 3), (0, 1)][number] if shared == 2 else [(0, 3), (1, 2), (2, 3)][number]
        for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
            matrix.weight.data[silent] = 0
        for head in quiet:
            block.self_attn.v_proj.weight.data.view(4 // shared, 8, 32)[head // shared] = 0
    assert not channel_importance(model, windows)[silent].any()
    assert (head_importance(model, windows) == 0).sum(1).tolist() == [2, 2, 2]
    small = prune(model, windows, 3, 48, heads=2)
    assert small.config == replace(model.config, hidden_size=16, num_attention_heads=2, num_key_value_heads=2 // shared)
    torch.testing.assert_close(small(windows), model(windows), rtol=1e-4, atol=1e-4)


def test_what_is_measured_is_what_the_projections_read(model, windows):
    block = model.model.layers[0]
    turn = model.model.turn[:16]
    x = model.model.embed_tokens(windows)
    seen = {}
    hook = block.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: seen.update(heads=inputs[0]))
    block(x, turn)
    hook.remove()
    heads = head_importance(model, windows)
    assert heads.shape == (3, 2)
    torch.testing.assert_close(heads[0], seen["heads"].view(4, 16, 2, 16).norm(dim=-1).mean((0, 1)))
    assert not block.self_attn.o_proj._forward_pre_hooks  # nothing stays behind


def test_strongest_keeps_the_order_in_which_they_stand():
    assert strongest(torch.tensor([0.1, 5.0, 0.2, 7.0, 6.0]), 3).tolist() == [1, 3, 4]


def test_what_cannot_be_kept_is_refused(model, windows):
    for layers, intermediate in ((0, 8), (4, 8), (1, 0), (1, 49)):
        with pytest.raises(WorkshopError, match="남길 수 없다"):
            prune(model, windows, layers, intermediate)
    with pytest.raises(WorkshopError, match="2의 배수"):
        prune(model, windows, 2, 8, heads=1)
    with pytest.raises(WorkshopError, match="남길 수 없다"):
        prune(model, windows, 2, 8, heads=3)
    for kept in ([], [3], [-1]):
        with pytest.raises(WorkshopError, match="남길 층"):
            cut_layers(model, kept)


def test_distillation_loss_is_the_mean_divergence_in_nats():
    teacher = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # ¼ ¾, ½ ½
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    by_hand = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert float(distillation_loss(student, teacher)) == pytest.approx(by_hand)
    assert float(distillation_loss(teacher, teacher, 3.0)) == pytest.approx(0.0, abs=1e-7)
    hot = torch.tensor([[0.0, math.log(3) / 2], [0.0, 0.0]])
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(4 * float(distillation_loss(student, hot)))


def test_its_gradient_is_what_the_student_says_too_much_whatever_the_temperature():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator).unbind(0)
    for temperature in (0.5, 1.0, 4.0):
        free = student.clone().requires_grad_()
        distillation_loss(free, teacher, temperature).backward()
        gap = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
        torch.testing.assert_close(free.grad, temperature * gap / 5)


def test_distillation_loss_says_what_does_not_fit():
    with pytest.raises(WorkshopError, match="모양"):
        distillation_loss(torch.zeros(1, 3), torch.zeros(1, 4))
    with pytest.raises(WorkshopError, match="온도"):
        distillation_loss(torch.zeros(1, 3), torch.zeros(1, 3), 0.0)


def test_distillation_changes_the_student_and_not_the_teacher():
    teacher, student = Transformer(SHAPE, seed=0), Transformer(SHAPE, seed=1)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    tokens = text(40 * 8 * 16 + 1)
    run = distil(student, teacher, tokens, training_settings(SHAPE, SETTINGS, 1e-2), progress=False, peak=1e12)
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert run.losses[-1] < 0.2 * run.losses[0]  # the teacher's own noise is learnt, not the text


def test_the_pruned_and_distilled_student_beats_the_same_size_from_scratch():
    tokens = text(12_000)
    teacher, longer = Transformer(SHAPE, seed=0), SimpleNamespace(**vars(SETTINGS) | {"distil_steps": 90})
    train(teacher, tokens, training_settings(SHAPE, longer, 1e-2), progress=False, peak=1e12)
    documents = [Encoded(tuple(text(30, seed)), 60, "made") for seed in range(1, 40)]
    validation = validation_windows(documents, 16)
    student = build_student(teacher, tokens[: 40 * 8 * 16 + 1], validation, SETTINGS)
    found = student.metrics
    assert student.model.config == student.scratch.config == replace(SHAPE, num_hidden_layers=1, intermediate_size=24)
    assert found["teacher_bpc"] < found["distilled_bpc"] < found["pruned_bpc"]
    assert found["distilled_bpc"] < found["scratch_small_bpc"]
    assert found["distilled_minus_scratch_bpc_high"] < 0
    assert found["student_tokens"] == 40 * 8 * 16
    assert {row["model"] for row in student.rows} == {"distilled", "scratch_small"}
    assert student.rows[-1]["val_bpc"] == pytest.approx(found["scratch_small_bpc"])
    assert list(student.nats) == ["teacher", "pruned", "distilled", "scratch_small"]
    with pytest.raises(WorkshopError, match="작지 않다"):
        build_student(teacher, tokens, validation, SimpleNamespace(**vars(SETTINGS) | {"student_layers": 3, "student_intermediate": 48}))


def test_a_large_vocabulary_is_learnt_in_parts():
    wide = replace(SHAPE, vocab_size=2**21)
    assert training_settings(SHAPE, SETTINGS, 1e-2).accumulation == 1
    assert training_settings(wide, SETTINGS, 1e-2).accumulation == 2  # 8 sequences of 16 tokens: 2^28 logits
    assert training_settings(replace(wide, max_position_embeddings=256), SETTINGS, 1e-2).accumulation == 8


def test_difference_in_bits_divides_by_the_characters():
    documents = [Encoded((1, 5, 2), characters, "a") for characters in (10, 30)]
    validation = validation_windows(documents, 8)
    gap, low, high = bpc_difference(np.array([20.0, 40.0]), np.array([10.0, 20.0]), validation)
    assert gap == pytest.approx(30 / 40 / math.log(2))
    assert low == pytest.approx(20 / 30 / math.log(2)) and high == pytest.approx(10 / 10 / math.log(2))


def test_first_tokens_are_the_stream_and_too_few_are_an_error():
    class Tokenizer:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, texts, **_):
            return {"input_ids": [[ord(c) for c in t] for t in texts]}

    documents = [{"text": "ab"}, {"text": "c"}]
    assert first_tokens(documents, Tokenizer(), 6).tolist() == [1, 97, 98, 2, 1, 99]
    with pytest.raises(WorkshopError, match="7토큰뿐"):
        first_tokens(documents, Tokenizer(), 8)
