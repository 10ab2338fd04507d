"""Mamba is transformers' Mamba, its chunked scan is the scan token after token, and its step is its forward."""

import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures import scans
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.mamba import Mamba, MambaConfig, selective_scan, selective_scan_reference, selective_scan_step

SMALL = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8)


def random_config(seed: int) -> MambaConfig:
    r = random.Random(seed)
    return MambaConfig(
        vocab_size=r.randrange(50, 300), hidden_size=r.choice([16, 24, 48]), num_hidden_layers=r.choice([1, 3]),
        state_size=r.choice([1, 4, 16]),
        expand=r.choice([1, 2, 3]), conv_kernel=r.choice([2, 4, 5]), time_step_rank=r.choice([0, 1, 5]), use_conv_bias=r.random() < 0.7,
        layer_norm_epsilon=r.choice([1e-6, 1e-5]), tie_word_embeddings=r.random() < 0.5, initializer_range=0.3,
    )


@pytest.mark.parametrize("seed", range(5))
def test_logits_and_gradients_equal_transformers_mamba(seed):
    from transformers import MambaForCausalLM

    config = random_config(seed)
    ours, theirs = Mamba(config, seed), MambaForCausalLM(config.to_hf())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert MambaConfig.from_hf(theirs.config) == config
    ids = torch.randint(0, config.vocab_size, (2, 39))
    logits = theirs(ids, use_cache=False).logits
    assert (ours(ids) - logits).abs().max() <= 1e-4
    ours(ids[:, :-1], ids[:, 1:].contiguous()).backward()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    wanted = dict(theirs.named_parameters())
    for name, a in ours.named_parameters():
        assert (a.grad - wanted[name].grad).norm() <= 1e-3 * wanted[name].grad.norm() + 1e-6, name


def test_a_transformers_state_dict_loads():
    from transformers import MambaForCausalLM

    theirs = MambaForCausalLM(SMALL.to_hf()).eval()
    ours = Mamba(SMALL)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 97, (2, 70))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_stepping_equals_forward_and_prefill_leaves_the_same_state(seed):
    config, time = random_config(seed), [1, 2, 3, 31, 65, 130][seed]
    model = Mamba(config, seed)
    ids = torch.randint(0, config.vocab_size, (1 + seed % 3, time + 1))
    wanted, state = model(ids), None
    for t in range(time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    last, read = model.prefill(ids[:, :time])
    assert (last - logits).abs().max() <= 1e-4
    assert state_bytes(read) == state_bytes(state)
    assert (model.step(ids[:, time], read)[0] - wanted[:, time]).abs().max() <= 1e-4


def test_the_state_does_not_grow():
    model = Mamba(SMALL, 0)
    sizes = {state_bytes(model.prefill(torch.zeros(2, time, dtype=torch.long))[1]) for time in (1, 2, 50, 200)}
    assert sizes == {4 * 2 * 2 * 64 * (8 + 3)}  # float32, rows, layers, channels, h and three past inputs


def inputs(batch: int, time: int, inner: int = 24, state: int = 5, dtype=torch.float64, strength: float = 1.0):
    torch.manual_seed(time)
    x, dt = torch.randn(batch, time, inner, dtype=dtype), strength * torch.rand(batch, time, inner, dtype=dtype)
    B, C = torch.randn(2, batch, time, state, dtype=dtype)
    return [part.requires_grad_() for part in (x, dt, torch.randn(inner, state, dtype=dtype), B, C, torch.randn(inner, dtype=dtype))]


@pytest.mark.parametrize("slab", [64, 32_768])
@pytest.mark.parametrize("batch, time", [(1, 1), (3, 2), (2, 8), (2, 9), (1, 64), (2, 65), (3, 150)])
def test_chunked_scan_equals_the_scan_token_after_token(batch, time, slab, monkeypatch):
    monkeypatch.setattr(scans, "SLAB", slab)  # small slabs: rows are taken one at a time
    parts = inputs(batch, time)
    x, dt, A_log, B, C, D = parts
    (a, last_a), (b, last_b) = selective_scan(*parts), selective_scan_reference(x, dt, -A_log.exp(), B, C, D)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(last_a, last_b)
    weights = torch.randn_like(a)
    for p, q in zip(torch.autograd.grad((a * weights).sum(), parts), torch.autograd.grad((b * weights).sum(), parts)):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 50.0])
def test_float32_scan_is_stable_over_4096_tokens(strength):
    """Decays from exp(−0.0001) to exp(−1,000) a step: nothing overflows, and the error stays that of single numbers."""
    exact = inputs(1, 4096, inner=6, strength=strength)
    single = [part.detach().float().requires_grad_() for part in exact]
    (a, _), (b, _) = selective_scan(*single), selective_scan(*exact)
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    for p, q in zip(torch.autograd.grad(a.sum(), single), torch.autograd.grad(b.sum(), exact)):
        assert p.isfinite().all() and (p - q).norm() <= 1e-3 * q.norm()


def test_one_step_by_hand():
    """h = e^(−ln 2)·3 + 1·5·2 = 11.5; y = 4·11.5 + 0.5·5. What went in is unchanged."""
    one = torch.ones(1, 1)
    h = torch.full((1, 1, 1), 3.0)
    y, new = selective_scan_step(5 * one, one, -torch.tensor([[2.0]]).log(), 2 * one, 4 * one, torch.tensor([0.5]), h)
    assert new.item() == pytest.approx(11.5) and y.item() == pytest.approx(48.5) and h.item() == 3


@pytest.mark.parametrize("time, width", [(1, 4), (2, 4), (4, 4), (50, 4), (9, 2), (9, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_equals_pytorchs(time, width, with_bias):
    torch.manual_seed(0)
    wide = torch.randn(2, time, 14, requires_grad=True)
    x = wide[..., 3:10]  # a view, as in the mixers
    weight, bias = torch.randn(7, width, requires_grad=True), torch.randn(7, requires_grad=True) if with_bias else None
    leaves = [wide, weight, *([bias] if with_bias else [])]
    a = scans.causal_conv(x, weight, bias)
    b = F.silu(F.conv1d(F.pad(x.transpose(1, 2), (width - 1, 0)), weight.unsqueeze(1), bias, groups=7)).transpose(1, 2)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(a)
    for p, q in zip(torch.autograd.grad(a, leaves, grad), torch.autograd.grad(b, leaves, grad)):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    stepped, past = [], scans.last_inputs(x[:, :0], width - 1)
    for t in range(time):
        y, past = scans.causal_conv_step(x[:, t], past, weight, bias)
        stepped.append(y)
    torch.testing.assert_close(torch.stack(stepped, 1), b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scans.last_inputs(x, width - 1), past)


def test_no_position_sees_the_future():
    model = Mamba(SMALL, seed=1)
    ids = torch.randint(0, 97, (1, 90))
    changed = ids.clone()
    changed[0, 70:] = (changed[0, 70:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :70], after[:, :70])
    assert not torch.allclose(before[:, 70:], after[:, 70:])


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (Mamba(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["backbone.embeddings.weight"], c["backbone.embeddings.weight"])


def test_time_steps_begin_within_their_range():
    dt = F.softplus(Mamba(SMALL, 0).backbone.layers[0].mixer.dt_proj.bias)
    assert 0.001 <= dt.min() < 0.01 < 0.03 < dt.max() <= 0.1


def test_a_few_steps_of_training_lower_the_loss():
    model = Mamba(SMALL, 0)
    ids = torch.randint(0, 97, (4, 33))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(ids[:, :-1], ids[:, 1:].contiguous())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


def test_bfloat16_autocast_keeps_the_recurrence_in_float32():
    model, ids = Mamba(SMALL, 0), torch.randint(0, 97, (2, 40))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids[:, :-1], ids[:, 1:].contiguous())
    loss.backward()
    assert abs(loss.item() - model(ids[:, :-1], ids[:, 1:].contiguous()).item()) < 0.05
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(hidden_size=0), "hidden_size"), (dict(state_size=-1), "state_size"), (dict(conv_kernel=0), "conv_kernel"),
        (dict(num_hidden_layers=0), "num_hidden_layers"), (dict(expand=1.5), "expand"), (dict(time_step_rank=-1), "time_step_rank"),
        (dict(time_step_min=0.2), "time_step_min"), (dict(vocab_size=0), "vocab_size"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        MambaConfig(**{"vocab_size": 10, **wrong})


def test_wrong_tokens_are_refused():
    with pytest.raises(WorkshopError, match="어휘 크기"):
        Mamba(SMALL)(torch.tensor([[97]]))
    with pytest.raises(WorkshopError, match="모양"):
        Mamba(SMALL)(torch.zeros(1, 0, dtype=torch.long))


def test_what_this_file_does_not_have_is_refused():
    with pytest.raises(WorkshopError, match="use_bias"):
        MambaConfig.from_hf(SMALL.to_hf(use_bias=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_kernel_agrees():
    pytest.importorskip("mamba_ssm")
    parts = [part.detach().float().cuda().requires_grad_() for part in inputs(2, 150)]
    x, dt, A_log, B, C, D = parts
    (a, last_a), (b, last_b) = selective_scan(*parts), selective_scan_reference(x, dt, -A_log.exp(), B, C, D)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(last_a, last_b, rtol=1e-3, atol=1e-3)
    for p, q in zip(torch.autograd.grad(a.sum(), parts), torch.autograd.grad(b.sum(), parts)):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-2)
