"""Mamba-2 is transformers' Mamba-2, its chunked matrix form is the recurrence, and its step is its forward."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.mamba2 import Mamba2, Mamba2Config, decay_matrix, scan, ssd, ssd_reference

SMALL = Mamba2Config(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=8, chunk_size=16)


def random_config(seed: int) -> Mamba2Config:
    r = random.Random(seed)
    heads, head, expand = r.choice([(4, 8, 2), (6, 12, 3), (4, 16, 2), (2, 24, 1)])
    return Mamba2Config(
        vocab_size=r.randrange(50, 300), hidden_size=heads * head // expand, num_hidden_layers=r.choice([1, 3]), num_heads=heads,
        head_dim=head, expand=expand, state_size=r.choice([1, 8, 16]), n_groups=r.choice([1, 2]), conv_kernel=r.choice([2, 4]),
        chunk_size=r.choice([1, 7, 16, 256]), time_step_limit=r.choice([(0.0, math.inf), (0.002, 0.05)]),
        use_conv_bias=r.random() < 0.7, tie_word_embeddings=r.random() < 0.5, initializer_range=0.3,
    )


@pytest.mark.parametrize("seed", range(6))
def test_logits_and_gradients_equal_transformers_mamba2(seed):
    from transformers import Mamba2ForCausalLM

    config = random_config(seed)
    ours, theirs = Mamba2(config, seed), Mamba2ForCausalLM(config.to_hf())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert Mamba2Config.from_hf(theirs.config) == config
    ids = torch.randint(0, config.vocab_size, (2, 39))
    logits = theirs(ids, use_cache=False).logits
    assert (ours(ids) - logits).abs().max() <= 1e-4
    ours(ids[:, :-1], ids[:, 1:].contiguous()).backward()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    wanted = dict(theirs.named_parameters())
    for name, a in ours.named_parameters():
        assert (a.grad - wanted[name].grad).norm() <= 1e-3 * wanted[name].grad.norm() + 1e-6, name


def test_a_transformers_state_dict_loads():
    from transformers import Mamba2ForCausalLM

    theirs = Mamba2ForCausalLM(SMALL.to_hf()).eval()
    ours = Mamba2(SMALL)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 97, (2, 70))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_stepping_equals_forward_and_prefill_leaves_the_same_state(seed):
    config, time = random_config(seed), [1, 2, 3, 31, 65, 130][seed]
    model = Mamba2(config, seed)
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
    model = Mamba2(SMALL, 0)
    sizes = {state_bytes(model.prefill(torch.zeros(2, time, dtype=torch.long))[1]) for time in (1, 2, 50, 200)}
    assert sizes == {4 * 2 * 2 * (64 * 8 + 3 * (64 + 2 * 8))}  # float32, rows, layers: h and three past inputs


def inputs(batch: int, time: int, groups: int = 2, dtype=torch.float64, strength: float = 1.0):
    torch.manual_seed(time)
    x, dt = torch.randn(batch, time, 4, 6, dtype=dtype), strength * torch.rand(batch, time, 4, dtype=dtype)
    B, C = torch.randn(2, batch, time, groups, 5, dtype=dtype)
    return [part.requires_grad_() for part in (x, dt, -torch.randn(4, dtype=dtype).exp(), B, C, torch.randn(4, dtype=dtype))]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("batch, time, chunk", [(1, 1, 64), (3, 2, 1), (2, 8, 4), (2, 9, 4), (1, 64, 64), (2, 65, 64), (3, 50, 256)])
def test_chunks_equal_the_recurrence(batch, time, chunk, groups):
    parts = inputs(batch, time, groups)
    (a, last_a), (b, last_b) = ssd(*parts, chunk), ssd_reference(*parts)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(last_a, last_b)
    weights = torch.randn_like(a)
    for p, q in zip(torch.autograd.grad((a * weights).sum(), parts), torch.autograd.grad((b * weights).sum(), parts)):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 3.0, 100.0])
def test_float32_is_stable_over_4096_tokens(strength):
    exact = inputs(1, 4096, strength=strength)
    single = [part.detach().float().requires_grad_() for part in exact]
    (a, _), (b, _) = ssd(*single), ssd(*exact)
    assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    for p, q in zip(torch.autograd.grad(a.sum(), single), torch.autograd.grad(b.sum(), exact)):
        assert p.isfinite().all() and (p - q).norm() <= 1e-3 * q.norm()


def test_inside_a_chunk_it_is_attention_with_a_fading_mask():
    """Dao & Gu 2024, equation 16: y = (L ∘ C Bᵀ)(dt·x), without softmax."""
    x, dt, A, B, C, D = inputs(1, 20, groups=1)
    mask = decay_matrix((dt * A)[0].T)  # (heads, time, time)
    y = (mask * (C[0, :, 0] @ B[0, :, 0].T)) @ (dt[..., None] * x)[0].transpose(0, 1) + D[:, None, None] * x[0].transpose(0, 1)
    torch.testing.assert_close(y.transpose(0, 1)[None], ssd(x, dt, A, B, C, D, 8)[0])


def test_decay_matrix_by_hand():
    half = math.log(0.5)
    wanted = torch.tensor([[1, 0, 0], [0.5, 1, 0], [0.125, 0.25, 1]])
    torch.testing.assert_close(decay_matrix(torch.tensor([3.0, half, 2 * half])), wanted)


def test_no_position_sees_the_future():
    model = Mamba2(SMALL, seed=1)
    ids = torch.randint(0, 97, (1, 90))
    changed = ids.clone()
    changed[0, 70:] = (changed[0, 70:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :70], after[:, :70])
    assert not torch.allclose(before[:, 70:], after[:, 70:])


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (Mamba2(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["backbone.embeddings.weight"], c["backbone.embeddings.weight"])


def test_bfloat16_autocast_keeps_the_recurrence_in_float32():
    model, ids = Mamba2(SMALL, 0), torch.randint(0, 97, (2, 40))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids[:, :-1], ids[:, 1:].contiguous())
    loss.backward()
    assert abs(loss.item() - model(ids[:, :-1], ids[:, 1:].contiguous()).item()) < 0.05
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(hidden_size=0), "hidden_size"), (dict(state_size=-1), "state_size"), (dict(num_heads=3), "num_heads나 head_dim"),
        (dict(n_groups=3), "그룹 3개"), (dict(chunk_size=0), "chunk_size"), (dict(time_step_max=0.0), "time_step_max"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        Mamba2Config(**{"vocab_size": 10, **wrong})


def test_wrong_tokens_are_refused():
    with pytest.raises(WorkshopError, match="어휘 크기"):
        Mamba2(SMALL)(torch.tensor([[-1]]))


def test_what_this_file_does_not_have_is_refused():
    with pytest.raises(WorkshopError, match="use_bias"):
        Mamba2Config.from_hf(SMALL.to_hf(use_bias=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_kernel_agrees():
    pytest.importorskip("mamba_ssm")
    torch.manual_seed(0)
    x, dt = torch.randn(2, 150, 4, 64), torch.rand(2, 150, 4)
    B, C = torch.randn(2, 2, 150, 1, 64)
    parts = [part.cuda().requires_grad_() for part in (x, dt, -torch.rand(4) - 0.1, B, C, torch.randn(4))]
    (a, last_a), (b, last_b) = scan(*parts, 64), ssd(*parts, 64)
    for p, q in ((a, b), (last_a, last_b)):
        assert (p - q).norm() <= 1e-2 * q.norm()  # the kernel multiplies in TF32
    for p, q in zip(torch.autograd.grad(a.sum(), parts), torch.autograd.grad(b.sum(), parts)):
        assert (p - q).norm() <= 2e-2 * q.norm()
