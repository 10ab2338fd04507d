"""The hybrid is transformers' Nemotron-H; its cache grows only in the attention layers, and it knows no longest text."""

import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures.hybrid import Hybrid, HybridConfig
from workshop_lib.architectures.language_model import state_bytes

SMALL = HybridConfig(
    vocab_size=97, hidden_size=32, pattern="M-M*M-", intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    mamba_num_heads=4, mamba_head_dim=16, ssm_state_size=8, n_groups=2, chunk_size=16,
)


def random_config(seed: int) -> HybridConfig:
    r = random.Random(seed)
    kv_heads = r.choice([1, 2])
    return HybridConfig(
        vocab_size=r.randrange(50, 300), hidden_size=r.choice([16, 40]), pattern=r.choice(["M", "*", "-M", "M*", "MM*-M-", "M-M*M-M-"]),
        intermediate_size=r.randrange(8, 80), num_attention_heads=kv_heads * r.choice([1, 3]), num_key_value_heads=kv_heads,
        head_dim=r.choice([4, 8]), mamba_num_heads=r.choice([2, 6]), mamba_head_dim=r.choice([6, 10]), ssm_state_size=r.choice([4, 12]),
        n_groups=r.choice([1, 2]), chunk_size=r.choice([5, 64]), tie_word_embeddings=r.random() < 0.5, initializer_range=0.3,
    )


@pytest.mark.parametrize("seed", range(8))
def test_logits_and_gradients_equal_transformers_nemotron_h(seed):
    from transformers import NemotronHForCausalLM

    config = random_config(seed)
    ours, theirs = Hybrid(config, seed), NemotronHForCausalLM(config.to_hf())
    theirs.load_state_dict(ours.state_dict(), strict=not config.tie_word_embeddings)
    if config.tie_word_embeddings:
        theirs.lm_head.weight = theirs.model.embeddings.weight
    assert HybridConfig.from_hf(theirs.config) == config
    ids = torch.randint(0, config.vocab_size, (2, 39))
    logits = theirs(ids, use_cache=False).logits
    assert (ours(ids) - logits).abs().max() <= 1e-4
    ours(ids[:, :-1], ids[:, 1:].contiguous()).backward()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    wanted = dict(theirs.named_parameters())
    for name, a in ours.named_parameters():
        assert (a.grad - wanted[name].grad).norm() <= 1e-3 * wanted[name].grad.norm() + 1e-6, name


def test_a_transformers_state_dict_loads():
    from transformers import NemotronHForCausalLM

    theirs = NemotronHForCausalLM(SMALL.to_hf()).eval()
    ours = Hybrid(SMALL)
    ours.load_state_dict(theirs.state_dict() | {"lm_head.weight": theirs.model.embeddings.weight})
    theirs.lm_head.weight = theirs.model.embeddings.weight
    ids = torch.randint(0, 97, (2, 70))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_stepping_equals_forward_and_prefill_leaves_the_same_state(seed):
    config, time = random_config(seed), [1, 2, 3, 31, 65, 130, 7, 90][seed]
    model = Hybrid(config, seed)
    ids = torch.randint(0, config.vocab_size, (1 + seed % 3, time + 1))
    wanted, state = model(ids), None
    for t in range(time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    last, read = model.prefill(ids[:, :time])
    assert (last - logits).abs().max() <= 1e-4
    assert state_bytes(read) == state_bytes(state)
    assert (model.step(ids[:, time], read)[0] - wanted[:, time]).abs().max() <= 1e-4


def test_only_the_attention_layers_cache_grows():
    model = Hybrid(SMALL, 0)
    short, long = (state_bytes(model.prefill(torch.zeros(1, time, dtype=torch.long))[1]) for time in (10, 210))
    assert long - short == 200 * 2 * 4 * SMALL.num_key_value_heads * SMALL.head_dim  # keys and values of one layer of six, float32


def test_no_position_sees_the_future():
    model = Hybrid(SMALL, seed=1)
    ids = torch.randint(0, 97, (1, 90))
    changed = ids.clone()
    changed[0, 70:] = (changed[0, 70:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :70], after[:, :70])
    assert not torch.allclose(before[:, 70:], after[:, 70:])


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (Hybrid(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embeddings.weight"], c["model.embeddings.weight"])


def test_a_few_steps_of_training_lower_the_loss():
    model = Hybrid(SMALL, 0)
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


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(pattern=""), "층 무늬"), (dict(pattern="M-E*"), "층 무늬 'M-E\\*'"), (dict(num_key_value_heads=3), "고르게 나눌 수 없다"),
        (dict(n_groups=3), "그룹 3개"), (dict(hidden_size=-4), "hidden_size"), (dict(intermediate_size=0), "intermediate_size"),
        (dict(time_step_min=0.0), "time_step_min"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        HybridConfig(**{"vocab_size": 10, **wrong})


def test_wrong_tokens_are_refused():
    with pytest.raises(WorkshopError, match="어휘 크기"):
        Hybrid(SMALL)(torch.tensor([[97]]))


def test_what_this_file_does_not_have_is_refused():
    with pytest.raises(WorkshopError, match="층 무늬"):
        HybridConfig.from_hf(SMALL.to_hf(layer_types=["linear_attention", "moe"]))
    with pytest.raises(WorkshopError, match="편향"):
        HybridConfig.from_hf(SMALL.to_hf(mlp_bias=True))
