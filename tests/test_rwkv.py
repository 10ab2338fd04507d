"""RWKV-7: the chunked form is the recurrence, the recurrence is the paper's, and the model is the authors'."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.architectures import rwkv
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.rwkv import Rwkv, RwkvConfig, chunked, state_step

SMALL = RwkvConfig(
    vocab_size=97, hidden_size=48, intermediate_size=100, num_hidden_layers=3, head_size=16, decay_rank=5, rate_rank=6, value_rank=7,
    gate_rank=8,
)  # fmt: skip


def restless(config: RwkvConfig, seed: int = 0) -> Rwkv:
    """A model in which every weight matters: at its starting point a model's blocks add nothing."""
    model, generator = Rwkv(config, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    return model


def random_inputs(time: int, seed: int = 0, heads: int = 2, head: int = 16, decay: str = "mixed") -> list[torch.Tensor]:
    """r, log w, k, v, a, b in float64 as TimeMix makes them: κ of length 1, rates of 0 to 1, the slowest decays next to the fastest."""
    generator = torch.Generator().manual_seed(seed)
    r, k, v, kappa, rate, fade = (torch.randn(2, time, heads, head, generator=generator, dtype=torch.float64) for _ in range(6))
    kappa, rate = F.normalize(kappa, dim=-1), torch.sigmoid(4 * rate)
    fade = {"mixed": torch.sigmoid(4 * fade), "fastest": torch.ones_like(fade), "none": torch.zeros_like(fade)}[decay]
    return [r, -math.exp(-0.5) * fade, k, v, -kappa, kappa * rate]


def recurrence(r, decay, k, v, a, b, state=None):
    """`state_step` token after token."""
    state = r.new_zeros(r.shape[0], *r.shape[2:], r.shape[3]) if state is None else state
    answers = []
    for token in zip(*(x.unbind(1) for x in (r, decay.exp(), k, v, a, b))):
        y, state = state_step(*token, state)
        answers.append(y)
    return torch.stack(answers, 1), state


@pytest.mark.parametrize("decay", ["mixed", "fastest", "none"])
@pytest.mark.parametrize("time", [1, 15, 16, 17, 200])
def test_chunks_equal_the_recurrence_in_values_and_gradients(time, decay):
    exact = [x.requires_grad_() for x in random_inputs(time, seed=time, decay=decay)]
    start = torch.randn(2, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(time)).requires_grad_()
    rough = [x.detach().float().requires_grad_() for x in (*exact, start)]
    wanted, found = recurrence(*exact, start), chunked(*rough)
    for a, b in zip(wanted, found):
        assert (a - b).abs().max() <= 1e-4 * max(1, a.abs().max())
    weight = torch.randn(wanted[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    for y, state in (wanted, found):
        ((y * weight).sum() + state.sum()).backward()
    for x, z in zip((*exact, start), rough):
        assert (x.grad - z.grad).norm() <= 1e-4 * x.grad.norm() + 1e-6


def test_chunks_are_exact_at_length_4096():
    exact = [x.requires_grad_() for x in random_inputs(4096, seed=1, heads=1)]
    rough = [x.detach().float().requires_grad_() for x in exact]
    (wanted, last), (found, state) = recurrence(*exact), chunked(*rough)
    assert (wanted - found).abs().max() <= 1e-4
    assert (last - state).abs().max() <= 1e-4
    (wanted[:, -1].sum() + wanted[:, ::64].sum()).backward()
    (found[:, -1].sum() + found[:, ::64].sum()).backward()
    for x, z in zip(exact, rough):
        assert (x.grad - z.grad).abs().max() <= 1e-4 * max(1, x.grad.abs().max())


def test_one_key_again_and_again_does_not_lose_precision():
    """The hardest triangular system: nothing fades, every token replaces the same entry, and only the last value remains."""
    r, _, _, v, a, _ = random_inputs(300, seed=2, decay="none")
    key = a[:, :1].expand_as(a)  # −κ
    inputs = [r, torch.zeros_like(r), -key, v, key, -key]
    wanted, last = recurrence(*inputs)
    found, state = chunked(*(x.float() for x in inputs))
    assert (wanted - found).abs().max() <= 1e-4
    torch.testing.assert_close(state.double(), v[:, -1].unsqueeze(-1) * -key[:, -1].unsqueeze(-2), atol=1e-4, rtol=0)
    assert (last - state).abs().max() <= 1e-4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), time=st.integers(1, 70), batch=st.integers(1, 3))
def test_forward_equals_stepping_and_prefill(seed, time, batch):
    model = restless(SMALL, seed % 5)
    ids = torch.randint(0, 97, (batch, time), generator=torch.Generator().manual_seed(seed))
    logits, state = model(ids), None
    for t in range(time):
        step, state = model.step(ids[:, t], state)
        assert (step - logits[:, t]).abs().max() <= 1e-4
    last, read = model.prefill(ids)
    assert (last - logits[:, -1]).abs().max() <= 1e-4
    for ours, theirs in zip(state, read):
        for a, b in zip(ours, theirs):
            assert (a - b).abs().max() <= 1e-4


def test_a_text_may_be_read_in_parts():
    model, ids = restless(SMALL), torch.randint(0, 97, (2, 61), generator=torch.Generator().manual_seed(0))
    whole, end = model.read(ids)
    first, state = model.read(ids[:, :23])
    second, state = model.read(ids[:, 23:], state)
    assert (whole - torch.cat((first, second), 1)).abs().max() <= 1e-4
    assert (end[-1][1] - state[-1][1]).abs().max() <= 1e-4


def test_the_state_does_not_grow():
    model = Rwkv(SMALL, seed=0)
    sizes = {state_bytes(model.prefill(torch.zeros(1, time, dtype=torch.long))[1]) for time in (1, 40, 300)}
    assert sizes == {4 * 3 * (48 * 16 + 2 * 48)}  # float32, layers, (the table of every head, two tokens to the left)


def test_no_position_sees_the_future():
    model = restless(SMALL)
    ids = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(3))
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers)
    return vector / np.linalg.norm(vector)


def write(state, key, value, rate: float = 1.0, keep: float = 1.0):
    """Read the old answer under `key` away at `rate` and write `value` there."""
    key, value = (torch.as_tensor(x, dtype=torch.float32).view(1, 1, -1) for x in (key, value))
    fade = torch.full_like(key, keep)
    return state_step(key, fade, rate * key, value, -key, rate * key, state)


def ask(state, key):
    return state @ torch.as_tensor(key, dtype=torch.float32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=16, max_size=16), st.integers(0, 7))
def test_writing_a_key_twice_replaces_its_value(numbers, index):
    """The delta rule. A memory that only adds (linear attention, RWKV-4 to 6 without fading) would answer with the sum."""
    old, new = np.array(numbers[:8]), np.array(numbers[8:])
    basis = np.linalg.qr(np.random.default_rng(index).normal(size=(8, 8)))[0]  # orthogonal keys
    state = torch.zeros(1, 1, 8, 8)
    for key, value in zip(basis, np.roll(np.eye(8), 1, axis=0)):
        _, state = write(state, key, value)
    _, state = write(state, basis[index], old)
    y, state = write(state, basis[index], new)
    np.testing.assert_allclose(y[0, 0], new, atol=1e-5)
    for other, (key, value) in enumerate(zip(basis, np.roll(np.eye(8), 1, axis=0))):
        np.testing.assert_allclose(ask(state, key)[0, 0], new if other == index else value, atol=1e-5)


def test_a_rate_below_one_replaces_in_part_and_fading_forgets():
    key = unit(1, 2, 2)
    _, state = write(torch.zeros(1, 1, 3, 3), key, [4.0, 0, 0])
    _, half = write(state, key, [0, 8.0, 0], rate=0.5)
    np.testing.assert_allclose(ask(half, key)[0, 0], [2, 4, 0], atol=1e-5)
    nothing = torch.zeros(1, 1, 3)
    _, faded = state_step(nothing, torch.full((1, 1, 3), 0.25), nothing, nothing, nothing, nothing, state)
    np.testing.assert_allclose(ask(faded, key)[0, 0], [1, 0, 0], atol=1e-5)


def test_state_step_leaves_its_arguments_as_they_were():
    r, decay, k, v, a, b = (x[:, 0] for x in random_inputs(1))
    state = torch.randn(2, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = [x.clone() for x in (r, decay, k, v, a, b, state)]
    state_step(r, decay, k, v, a, b, state)
    assert all(torch.equal(x, y) for x, y in zip((r, decay, k, v, a, b, state), before))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normed(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def paper_logits(weights: dict[str, np.ndarray], ids: list[int], heads: int, layers: int) -> np.ndarray:
    """RWKV-7 as section 4 of the paper has it (row vectors, transition matrices written out), float64, one token at a time."""
    width = weights["emb.weight"].shape[1]
    head = width // heads
    left_time, left_channel = np.zeros((layers, width)), np.zeros((layers, width))
    tables = np.zeros((layers, heads, head, head))
    logits = []
    for token in ids:
        x = normed(weights["emb.weight"][token], weights["blocks.0.ln0.weight"], weights["blocks.0.ln0.bias"], 1e-5)
        first = None
        for i in range(layers):
            def p(name, i=i):
                return weights[f"blocks.{i}.{name}"]

            now = normed(x, p("ln1.weight"), p("ln1.bias"), 1e-5)
            mixed = {c: now + (left_time[i] - now) * p(f"att.x_{c}") for c in "rwkvag"}  # = (1 − μ) now + μ left
            left_time[i] = now
            r, k, v = (mixed[c] @ p(f"att.{name}.weight").T for c, name in (("r", "receptance"), ("k", "key"), ("v", "value")))
            d = np.tanh(mixed["w"] @ p("att.w1")) @ p("att.w2") + p("att.w0")
            w = np.exp(-np.exp(-0.5) * sigmoid(d))
            a = sigmoid(mixed["a"] @ p("att.a1") @ p("att.a2") + p("att.a0"))
            g = sigmoid(mixed["g"] @ p("att.g1")) @ p("att.g2")
            if i == 0:
                first = v
            else:
                nu = sigmoid(mixed["v"] @ p("att.v1") @ p("att.v2") + p("att.v0"))
                v = (1 - nu) * v + nu * first
            kappa = k * p("att.k_k")
            k = k * ((1 - p("att.k_a")) + a * p("att.k_a"))
            out = np.zeros(width)
            for h in range(heads):
                s = slice(h * head, (h + 1) * head)
                toward = kappa[s] / np.linalg.norm(kappa[s])
                transition = np.diag(w[s]) - np.outer(toward, a[s] * toward)
                tables[i, h] = tables[i, h] @ transition + np.outer(v[s], k[s])
                read = normed(tables[i, h] @ r[s], p("att.ln_x.weight")[s], p("att.ln_x.bias")[s], 64e-5)
                out[s] = read + (r[s] * k[s] * p("att.r_k")[h]).sum() * v[s]
            x = x + (out * g) @ p("att.output.weight").T
            now = normed(x, p("ln2.weight"), p("ln2.bias"), 1e-5)
            inner = (now + (left_channel[i] - now) * p("ffn.x_k")) @ p("ffn.key.weight").T
            left_channel[i] = now
            x = x + np.maximum(inner, 0) ** 2 @ p("ffn.value.weight").T
        logits.append(normed(x, weights["ln_out.weight"], weights["ln_out.bias"], 1e-5) @ weights["head.weight"].T)
    return np.array(logits)


@pytest.mark.parametrize("seed, tied", [(0, True), (1, False)])
def test_logits_equal_the_papers_equations_in_float64(seed, tied):
    config = RwkvConfig(**{**vars(SMALL), "tie_word_embeddings": tied})
    model = restless(config, seed)
    ids = torch.randint(0, 97, (1, 75), generator=torch.Generator().manual_seed(seed))
    weights = {name: x.double().numpy() for name, x in model.authors_state_dict().items()}
    wanted = paper_logits(weights, ids[0].tolist(), config.num_heads, config.num_hidden_layers)
    assert np.abs(model(ids)[0].detach().numpy() - wanted).max() <= 1e-4


AUTHORS = """
import os, sys
os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="1", RWKV_CUDA_ON="0")
import torch
from rwkv.model import RWKV_x070
ids = torch.load(sys.argv[2]).tolist()
model = RWKV_x070(sys.argv[1], "cpu fp32")
whole, _ = model.forward(ids, None, full_output=True)
state, steps = None, []
for token in ids:
    logits, state = model.forward(token, state)
    steps.append(logits)
torch.save((whole, torch.stack(steps), torch.stack(state[1::3])), sys.argv[3])
"""


@pytest.mark.parametrize("seed, head", [(0, 16), (1, 64)])
def test_logits_equal_the_authors_package(tmp_path, seed, head):
    """`rwkv` on PyPI, in a process of its own, because it changes torch's global switches when imported."""
    pytest.importorskip("rwkv", reason="pip install --no-deps rwkv==0.8.32")
    config = RwkvConfig(
        vocab_size=120, hidden_size=128, intermediate_size=256, num_hidden_layers=3, head_size=head, tie_word_embeddings=False
    )
    model = restless(config, seed)
    ids = torch.randint(0, 120, (90,), generator=torch.Generator().manual_seed(seed))
    torch.save(model.authors_state_dict(), tmp_path / "weights.pth")
    torch.save(ids, tmp_path / "ids.pt")
    files = [str(tmp_path / name) for name in ("weights", "ids.pt", "answer.pt")]
    subprocess.run([sys.executable, "-c", AUTHORS, *files], check=True, capture_output=True, env=os.environ)
    whole, steps, tables = torch.load(tmp_path / "answer.pt")
    logits = model(ids.unsqueeze(0))[0]
    assert (logits - whole).abs().max() <= 1e-4
    assert (logits - steps).abs().max() <= 1e-4
    ours = torch.stack([table[0] for _, table, _ in model.prefill(ids.unsqueeze(0))[1]])
    assert (ours - tables).abs().max() <= 1e-4


def test_loss_at_random_weights_is_near_ln_vocabulary_and_training_lowers_it():
    config = RwkvConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_size=16)
    model = Rwkv(config, seed=0)
    ids = torch.randint(0, 64, (4, 1), generator=torch.Generator().manual_seed(0)) + torch.arange(34)
    inputs, targets = ids[:, :-1] % 64, (ids[:, 1:] % 64).contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        losses.append(model(inputs, targets))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert abs(losses[0].item() - math.log(64)) < 0.2
    assert losses[-1] < 0.2 * losses[0]


def test_the_gradient_reaches_every_parameter():
    model = restless(SMALL)
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(0))
    model(ids[:, :-1], ids[:, 1:].contiguous()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("autocast", [True, False])
def test_in_bf16_the_state_stays_in_float32(autocast):
    exact, rough = restless(SMALL), restless(SMALL)
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(0))
    if not autocast:
        rough = rough.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rough(ids[:, :-1], ids[:, 1:].contiguous()).backward()
        logits = rough(ids)
        last, state = rough.prefill(ids)
        step, state = rough.step(ids[:, 0], state)
    assert all(p.grad.isfinite().all() for p in rough.parameters())
    assert state[0][1].dtype == torch.float32
    assert (logits.float() - exact(ids)).abs().mean() < 0.05 * exact(ids).std()
    assert (last - logits[:, -1]).abs().max() < 0.1 and step.isfinite().all()


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (Rwkv(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["embed_tokens.weight"], c["embed_tokens.weight"])


def test_every_channel_keeps_at_least_0_545_a_token():
    assert math.exp(-rwkv.FASTEST_DECAY) == pytest.approx(0.5452, abs=1e-4)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(hidden_size=50), "hidden_size 50는 헤드 너비 16로 나누어떨어져야"),
        (dict(num_hidden_layers=0), "num_hidden_layers"),
        (dict(decay_rank=-1), "decay_rank"),
        (dict(vocab_size=0), "vocab_size"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        RwkvConfig(**{**vars(SMALL), **wrong})


@pytest.mark.parametrize("ids, message", [([[1, 97]], "어휘 크기 97"), ([[-1]], "토큰 번호 -1"), ([[]], "길이가 1 이상")])
def test_wrong_tokens_are_refused(ids, message):
    with pytest.raises(WorkshopError, match=message):
        Rwkv(SMALL)(torch.tensor(ids, dtype=torch.long))
