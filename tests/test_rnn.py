"""The recurrent network is the recurrence it claims to be, and steps as it trains."""

import random

import numpy as np
import pytest
import torch

from workshop_lib import WorkshopError
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.rnn import RNN, RNNConfig
from workshop_lib.architectures.transformer import generate

SMALL = RNNConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2)


def by_hand(model: RNN, ids: np.ndarray) -> np.ndarray:
    """Logits of one text by the formula, in float64."""
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    inputs = weights["embed_tokens.weight"][ids]
    for layer in range(model.config.num_hidden_layers):
        w, u = weights[f"rnn.weight_ih_l{layer}"], weights[f"rnn.weight_hh_l{layer}"]
        b = weights[f"rnn.bias_ih_l{layer}"] + weights[f"rnn.bias_hh_l{layer}"]
        h, outputs = np.zeros(len(u)), []
        for x in inputs:
            h = np.tanh(w @ x + u @ h + b)
            outputs.append(h)
        inputs = np.array(outputs)
    return inputs @ weights["embed_tokens.weight"].T


def test_logits_equal_the_formula():
    model = RNN(SMALL, seed=0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 61, (2, 30))
    for row in range(2):
        assert np.abs(model(ids)[row].detach().numpy() - by_hand(model, ids[row].numpy())).max() <= 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_steps_and_prefill_equal_forward(seed):
    r = random.Random(seed)
    config = RNNConfig(r.randrange(2, 90), r.randrange(1, 40), r.randrange(1, 4), r.random() < 0.5, 0.3)
    model, batch, time = RNN(config, seed), r.randrange(1, 4), r.randrange(1, 50)
    ids = torch.randint(0, config.vocab_size, (batch, time))
    wanted, state, read = model(ids), None, r.randrange(1, time + 1)
    for t in range(time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    logits, state = model.prefill(ids[:, :read])
    for t in range(read, time):
        logits, state = model.step(ids[:, t], state)
    assert (logits - wanted[:, -1]).abs().max() <= 1e-4
    assert state_bytes(state) == 4 * batch * config.num_hidden_layers * config.hidden_size


def test_it_learns_the_previous_token_and_writes_without_a_limit():
    model, generator = RNN(SMALL, seed=0), torch.Generator().manual_seed(0)
    stepper = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 61, (150, 8, 20), generator=generator)
    for batch in ids:
        loss = model(batch[:, 1:], batch[:, :-1].contiguous())
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    assert loss < 2.0  # ln 61 is 4.1
    assert len(generate(model, [1], 300)) == 300


def test_same_seed_same_weights_and_flops():
    a, b, c = (RNN(SMALL, seed=seed).rnn.weight_hh_l0 for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.testing.assert_close(a @ a.t(), torch.eye(24), atol=1e-5, rtol=0)
    model = RNN(SMALL)
    assert model.num_parameters() == 61 * 24 + 2 * (2 * 24 * 24 + 2 * 24)
    assert model.flops_per_token(10) == model.flops_per_token(10_000) == 6 * (61 * 24 + 4 * 24 * 24)


@pytest.mark.parametrize("wrong", [dict(hidden_size=0), dict(vocab_size=-3), dict(num_hidden_layers=-1), dict(hidden_size=1.5)])
def test_impossible_shapes_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(WorkshopError, match=f"{name}.*{value}이다"):
        RNNConfig(**{"vocab_size": 10, **wrong})
    with pytest.raises(WorkshopError, match="토큰 번호 61"):
        RNN(SMALL)(torch.tensor([[61]]))
