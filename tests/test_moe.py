"""The MoE model is DeepSeek-V3: same names, same logits, same gradients; its cache is small, its experts equally busy."""

import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures import attention, moe
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.moe import MoE, MoEConfig, Router, balance, route
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate

SMALL = MoEConfig(
    vocab_size=97, hidden_size=64, intermediate_size=96, moe_intermediate_size=24, num_hidden_layers=3, kv_lora_rank=16,
    qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16, max_position_embeddings=32,
)


def random_config(seed: int) -> MoEConfig:
    r = random.Random(seed)
    experts = r.choice([2, 4, 7])
    return MoEConfig(
        vocab_size=r.randrange(50, 300), hidden_size=r.choice([16, 36, 64]), intermediate_size=4 * r.randrange(4, 30),
        moe_intermediate_size=4 * r.randrange(2, 10), num_hidden_layers=3, num_attention_heads=r.choice([1, 3, 4]),
        n_routed_experts=experts, n_shared_experts=r.choice([1, 2]), num_experts_per_tok=r.randrange(1, experts + 1),
        first_k_dense_replace=r.choice([0, 1, 3]), routed_scaling_factor=r.choice([1.0, 2.5]), q_lora_rank=r.choice([None, 12]),
        kv_lora_rank=r.choice([5, 16]), qk_nope_head_dim=r.choice([3, 8, 16]), qk_rope_head_dim=r.choice([2, 8]),
        v_head_dim=r.choice([4, 16]), max_position_embeddings=r.randrange(20, 60), rope_theta=r.choice([1e3, 1e4]),
        rms_norm_eps=r.choice([1e-6, 1e-5]), tie_word_embeddings=r.random() < 0.5, initializer_range=0.1,
    )  # fmt: skip


def new(config: MoEConfig, seed: int) -> MoE:
    """In evaluation mode, with a routing bias that matters."""
    model, generator = MoE(config, seed).eval(), torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, Router):
            module.e_score_correction_bias.normal_(std=0.1, generator=generator)
    return model


@pytest.mark.parametrize("seed", range(8))
def test_logits_loss_and_gradients_equal_transformers_deepseek(seed):
    from transformers import DeepseekV3ForCausalLM

    config = random_config(seed)
    ours, theirs = new(config, seed), DeepseekV3ForCausalLM(config.to_hf()).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert MoEConfig.from_hf(theirs.config) == config
    ids = torch.randint(0, config.vocab_size, (3, config.max_position_embeddings))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4
    inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()
    ours(inputs, targets).backward()
    F.cross_entropy(theirs(inputs).logits.flatten(0, 1), targets.flatten()).backward()
    wanted = dict(theirs.named_parameters())
    for name, a in ours.named_parameters():
        b = wanted[name]
        assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm() + 1e-7, name


def test_a_transformers_state_dict_loads():
    from transformers import DeepseekV3ForCausalLM

    theirs = DeepseekV3ForCausalLM(SMALL.to_hf()).eval()
    ours = MoE(SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 97, (2, 32))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_steps_and_prefill_equal_forward(seed):
    """Steps read the compressed cache with folded matrices; forward unfolds keys and values."""
    config, r = random_config(seed), random.Random(f"steps/{seed}")
    model, batch, time = new(config, seed), r.randrange(1, 4), r.randrange(1, config.max_position_embeddings + 1)
    ids = torch.randint(0, config.vocab_size, (batch, time))
    wanted, state, read = model(ids), None, r.randrange(1, time + 1)
    for t in range(time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    logits, state = model.prefill(ids[:, :read])
    assert (logits - wanted[:, read - 1]).abs().max() <= 1e-4
    for t in range(read, time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    size = dict(latent=config.kv_lora_rank, rope=config.qk_rope_head_dim, bytes=4)
    assert state_bytes(state) == batch * time * attention.cache_bytes_per_token("mla", config.num_hidden_layers, 1, 1, 1, **size)


def test_greedy_decoding_equals_transformers_generate():
    from transformers import DeepseekV3ForCausalLM

    theirs = DeepseekV3ForCausalLM(SMALL.to_hf(bos_token_id=1, eos_token_id=None, pad_token_id=0)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(5)
    ours = MoE(SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    prompt = [1, 17, 80, 3]
    wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=28, do_sample=False)[0, 4:].tolist()
    assert len(set(wanted)) > 5
    assert generate(ours, prompt, 28, temperature=0.0) == wanted


def test_the_cache_is_a_fraction_of_the_transformers():
    ids = torch.randint(0, 97, (1, 32))
    _, small = MoE(MoEConfig(97)).prefill(ids)
    _, large = Transformer(TransformerConfig(97, hidden_size=128)).prefill(ids)
    assert state_bytes(large) / state_bytes(small) == 2 * 128 / (32 + 16)


def test_routing_follows_scores_and_bias_only_shifts_the_choice():
    scores = torch.tensor([[0.9, 0.5, 0.4, 0.1], [0.2, 0.3, 0.6, 0.1]])
    indices, weights = route(scores, torch.zeros(4), 2)
    assert indices.tolist() == [[0, 1], [2, 1]]
    torch.testing.assert_close(weights, torch.tensor([[0.9, 0.5], [0.6, 0.3]]) / torch.tensor([[1.4], [0.9]]))
    indices, weights = route(scores, torch.tensor([-1.0, 0, 0, 0.45]), 2, 2.5)
    assert indices.tolist() == [[3, 1], [2, 3]]
    torch.testing.assert_close(weights, 2.5 * torch.tensor([[0.1, 0.5], [0.6, 0.1]]) / torch.tensor([[0.6], [0.7]]))
    torch.testing.assert_close(weights.sum(-1), torch.full((2,), 2.5))


def test_balance_moves_every_expert_towards_the_mean():
    bias, counts = torch.tensor([0.0, 0.5, -0.5, 0.0]), torch.tensor([10, 2, 0, 4])
    torch.testing.assert_close(balance(bias, counts, 0.1), torch.tensor([-0.1, 0.6, -0.4, 0.0]))
    assert bias.tolist() == [0.0, 0.5, -0.5, 0.0]


def lopsided(rate: float) -> MoE:
    """A model whose router sends nearly everything to expert 0."""
    model = MoE(MoEConfig(97, 64, 64, 16, num_hidden_layers=2, num_experts_per_tok=1, balance_rate=rate), seed=0)
    gate = model.model.layers[1].mlp.gate
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight.fill_(1)
        model.model.embed_tokens.weight.add_(0.02)  # all tokens have a direction in common, and expert 0 likes it
        gate.weight[0] += 0.15
    return model


def largest_share(model: MoE, ids: torch.Tensor) -> float:
    routes = model.routes(ids)
    return float(routes.flatten().bincount(minlength=8).max() / routes.numel())


def test_a_router_with_a_favourite_gets_balanced_in_training():
    ids = torch.randint(0, 97, (8, 65), generator=torch.Generator().manual_seed(0))
    shares = {}
    for rate in (0.0, 0.01):
        model = lopsided(rate)
        assert largest_share(model, ids[:, :-1]) > 0.9
        stepper = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(60):
            model(ids[:, :-1], ids[:, 1:].contiguous()).backward()
            stepper.step()
            stepper.zero_grad()
        shares[rate] = largest_share(model, ids[:, :-1])
    assert shares[0.0] > 0.9 and shares[0.01] < 0.3  # equal work would be 1/8


def test_only_training_moves_the_bias():
    model, ids = lopsided(0.1), torch.randint(0, 97, (2, 32))
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    with torch.no_grad():
        model(ids)
    model.prefill(ids)
    model.step(ids[:, 0])
    model.routes(ids)
    model.eval()(ids)
    assert not bias.any()
    before = model(ids)
    after = model.train()(ids)
    torch.testing.assert_close(before, after)  # the batch that moves the bias is still routed by the old one
    assert bias.any() and "model.layers.1.mlp.gate.e_score_correction_bias" in model.state_dict()
    assert not bias.requires_grad


def test_an_expert_reads_its_own_tokens_only(monkeypatch):
    read = []
    monkeypatch.setattr(moe, "_expert", lambda x, gate_up, down: read.append(len(x)) or x)
    model, ids = MoE(SMALL, seed=0).eval(), torch.randint(0, 97, (2, 32))
    routes = model.routes(ids)
    assert routes.shape == (2, 2, 32, 2) and (routes[..., 0] != routes[..., 1]).all()
    assert sum(read) == routes.numel()
    counts = [layer.flatten().bincount(minlength=8).tolist() for layer in routes]
    assert read == [count for layer in counts for count in layer if count]


def test_bfloat16_autocast_trains_and_decodes():
    model, ids = MoE(SMALL, seed=0), torch.randint(0, 97, (2, 20))
    with torch.autocast("cpu", torch.bfloat16):
        model(ids[:, :-1], ids[:, 1:].contiguous()).backward()
        logits, state = model.eval().prefill(ids[:, :-1])
        logits, state = model.step(ids[:, -1], state)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert (logits - model(ids)[:, -1]).abs().max() < 0.02


def test_active_parameters_and_flops():
    model = MoE(SMALL)
    expert = 3 * 64 * 24
    assert model.num_parameters() - model.active_parameters() == 2 * 6 * expert
    latent = 64 * 4 * 16 + 64 * (16 + 8) + 16 * 4 * (8 + 16) + 4 * 16 * 64
    matrices = 97 * 64 + 3 * latent + 3 * 64 * 96 + 2 * (3 * expert + 8 * 64)
    assert model.flops_per_token(32) == 6 * matrices + 6 * 3 * 4 * (16 + 16) * 32
    untied = MoE(MoEConfig(97, tie_word_embeddings=False))
    assert untied.flops_per_token(8) == MoE(MoEConfig(97)).flops_per_token(8)


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (MoE(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.layers.1.mlp.experts.down_proj"], c["model.layers.1.mlp.experts.down_proj"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(num_experts_per_tok=9), "전문가 8명 가운데 9명"),
        (dict(num_experts_per_tok=0), "num_experts_per_tok.* 0이다"),
        (dict(qk_rope_head_dim=7), "qk_rope_head_dim 7.*홀수"),
        (dict(first_k_dense_replace=5), "first_k_dense_replace 5.*층수 4"),
        (dict(q_lora_rank=0), "q_lora_rank.* 0이다"),
        (dict(max_position_embeddings=-4), "max_position_embeddings.* -4이다"),
        (dict(balance_rate=-0.1), "balance_rate -0.1"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        MoEConfig(**{"vocab_size": 10, **wrong})


def test_what_the_model_cannot_read_is_refused():
    model = MoE(SMALL)
    with pytest.raises(WorkshopError, match="33토큰이 모델의 문맥 길이 32보다 길다"):
        model(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(WorkshopError, match="토큰 번호 97"):
        model.routes(torch.tensor([[97]]))
    with pytest.raises(WorkshopError, match="전문가 3명 가운데 4명"):
        route(torch.rand(2, 3), torch.zeros(3), 4)
    grouped = SMALL.to_hf()
    grouped.n_group = 2
    with pytest.raises(WorkshopError, match="n_group=2"):
        MoEConfig.from_hf(grouped)
