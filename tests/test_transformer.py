"""The Transformer is Llama: same names, same logits, same gradients; and its hand-written gradients are right."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures import attention, kernels
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate, next_token_probabilities

SMALL = TransformerConfig(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32,
)


def random_config(seed: int) -> TransformerConfig:
    r = random.Random(seed)
    kv_heads, group, head = r.choice([1, 2]), r.choice([1, 2, 3]), r.choice([8, 16, 32])
    return TransformerConfig(
        vocab_size=r.randrange(50, 300), hidden_size=kv_heads * group * head, intermediate_size=r.randrange(16, 200),
        num_hidden_layers=r.choice([1, 3]), num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads,
        max_position_embeddings=r.randrange(20, 70), rope_theta=r.choice([1e3, 1e4, 5e5]), rms_norm_eps=r.choice([1e-6, 1e-5]),
        tie_word_embeddings=r.random() < 0.5, initializer_range=0.1,
    )


@pytest.mark.parametrize("seed", range(6))
def test_logits_loss_and_gradients_equal_transformers_llama(seed):
    from transformers import LlamaForCausalLM

    config = random_config(seed)
    ours, theirs = Transformer(config, seed), LlamaForCausalLM(config.to_hf()).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert TransformerConfig.from_hf(theirs.config) == config
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
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(SMALL.to_hf()).eval()
    ours = Transformer(SMALL)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 97, (2, 32))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_steps_and_prefill_equal_forward(seed):
    config, r = random_config(seed), random.Random(f"steps/{seed}")
    model, batch, time = Transformer(config, seed), r.randrange(1, 4), r.randrange(1, config.max_position_embeddings + 1)
    ids = torch.randint(0, config.vocab_size, (batch, time))
    wanted = model(ids)
    state = None
    for t in range(time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    read = r.randrange(1, time + 1)
    logits, state = model.prefill(ids[:, :read])
    assert (logits - wanted[:, read - 1]).abs().max() <= 1e-4
    for t in range(read, time):
        logits, state = model.step(ids[:, t], state)
        assert (logits - wanted[:, t]).abs().max() <= 1e-4
    heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    assert state_bytes(state) == batch * time * attention.cache_bytes_per_token("gqa", config.num_hidden_layers, *heads, bytes=4)


def test_a_layer_is_the_exercises_put_together():
    """Projections, `rotate`, one `cached_attention_step` a token, merge: the Transformer's attention, in the order students write it."""
    layer, x, positions = Transformer(SMALL, seed=5).model.layers[0].self_attn, torch.randn(2, 9, 64), torch.arange(9)
    q, k, v = (attention.split_heads(project(x), heads) for project, heads in
               ((layer.q_proj, 4), (layer.k_proj, 2), (layer.v_proj, 2)))
    q, k, v = attention.rotate(q, positions), *(y.repeat_interleave(2, dim=1) for y in (attention.rotate(k, positions), v))
    cache, steps = None, []
    for t in range(9):
        y, cache = attention.cached_attention_step(*(part[:, :, t : t + 1] for part in (q, k, v)), cache)
        steps.append(y)
    torch.testing.assert_close(layer.o_proj(attention.merge_heads(torch.cat(steps, 2))), layer(x, Transformer(SMALL).model.turn[:9]))


def test_greedy_decoding_equals_transformers_generate():
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(SMALL.to_hf(bos_token_id=1, eos_token_id=None, pad_token_id=0)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(5)  # away from uniform: each greedy choice is a clear one
    ours = Transformer(SMALL)
    ours.load_state_dict(theirs.state_dict())
    prompt = [1, 17, 80, 3]
    wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=28, do_sample=False)[0, 4:].tolist()
    assert len(set(wanted)) > 5
    assert generate(ours, prompt, 28, temperature=0.0) == wanted == generate(theirs, prompt, 28, temperature=0.0)


def test_no_position_sees_the_future():
    model = Transformer(SMALL, seed=1)
    ids = torch.randint(0, 97, (1, 32))
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 97
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_loss_at_random_weights_is_near_ln_vocabulary():
    config = TransformerConfig(vocab_size=2048, hidden_size=128, intermediate_size=256)
    ids = torch.randint(0, 2048, (4, 65))
    loss = Transformer(config, seed=0)(ids[:, :-1], ids[:, 1:].contiguous())
    assert abs(loss.item() - math.log(2048)) < 0.1


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (Transformer(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_num_parameters_and_flops():
    model = Transformer(SMALL)
    assert model.num_parameters() == 97 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 2 * 64) + 64
    matrices = model.num_parameters() - 5 * 64
    assert model.flops_per_token(32) == 6 * matrices + 12 * 2 * 64 * 32


def both(x, plain):
    """Value and gradients of the kernel and of its plain definition."""
    leaves = [t.clone().requires_grad_() for t in x]
    y = plain(*leaves)
    y.backward(torch.ones_like(y) * torch.linspace(0.5, 1.5, y.numel()).view_as(y))
    return y.detach(), [t.grad for t in leaves]


@pytest.mark.parametrize(
    "kernel, plain, shapes",
    [
        (lambda x, w: kernels.rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, (24,), w, 1e-5), [(3, 5, 24), (24,)]),
        (kernels.swiglu, lambda a, b: F.silu(a) * b, [(3, 5, 8), (3, 5, 8)]),
    ],
    ids=["rms_norm", "swiglu"],
)
def test_kernel_equals_its_definition(kernel, plain, shapes):
    torch.manual_seed(0)
    x = [torch.randn(shape) for shape in shapes]
    (a, grads_a), (b, grads_b) = both(x, kernel), both(x, plain)
    torch.testing.assert_close(a, b)
    for p, q in zip(grads_a, grads_b):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [5, kernels.CHUNK, 2 * kernels.CHUNK + 7])
def test_chunked_cross_entropy_equals_the_plain_one(tokens):
    torch.manual_seed(0)
    targets = torch.randint(0, 30, (tokens,))
    targets[::4] = -100
    x, weight = torch.randn(tokens, 8), torch.randn(30, 8)
    a = both((x, weight), lambda x, w: kernels.linear_cross_entropy(x, w, targets))
    b = both((x, weight), lambda x, w: F.cross_entropy(x @ w.t(), targets))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_float64_and_float32_paths_agree():
    """float64 takes the plain definitions: the hand-written ones must give the same model."""
    model = Transformer(SMALL, seed=2)
    ids = torch.randint(0, 97, (2, 33))
    loss = model(ids[:, :-1], ids[:, 1:].contiguous())
    loss.backward()
    exact = Transformer(SMALL, seed=2).double()
    exact(ids[:, :-1], ids[:, 1:].contiguous()).backward()
    for p, q in zip(model.parameters(), exact.parameters()):
        torch.testing.assert_close(p.grad, q.grad.float(), rtol=1e-3, atol=1e-6)


def test_generation_repeats_with_the_seed_and_stops():
    model = Transformer(SMALL, seed=0)
    a = generate(model, [1], 40, seed=7)
    assert a == generate(model, [1], 40, seed=7) != generate(model, [1], 40, seed=8)
    assert len(a) == 40  # longer than the context: the window slides
    greedy = generate(model, [1, 5], 6, temperature=0.0)
    assert generate(model, [1, 5], 6, temperature=0.0, stop=greedy[2]) == greedy[: greedy.index(greedy[2])]


def recomputed(model, ids, tokens, seed, top_k=50, temperature=0.8):
    """Sampling that reads the whole window for every token: what `generate` must amount to."""
    generator, new = torch.Generator().manual_seed(seed), []
    for _ in range(tokens):
        logits = model(torch.tensor([(ids + new)[-32:]]))[:, -1]
        new.append(int(torch.multinomial(next_token_probabilities(logits, temperature, top_k), 1, generator=generator)))
    return new


@pytest.mark.parametrize("length", [1, 20, 32, 33])
def test_the_cache_changes_the_work_but_not_the_samples(length):
    model = Transformer(SMALL, seed=0)
    prompt = torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    with torch.no_grad():
        wanted = [recomputed(model, prompt, 40, seed) for seed in range(3)]
    assert [generate(model, prompt, 40, seed=seed) for seed in range(3)] == wanted
    read = []
    model.model.embed_tokens.register_forward_hook(lambda module, ids, x: read.append(x.shape[1]))
    generate(model, prompt[:20], 12)
    assert read == [len(prompt[:20])] + [1] * 11


def test_top_k_keeps_k_tokens_and_temperature_zero_is_greedy():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    shares = next_token_probabilities(logits, 1.0, top_k=2)
    assert (shares > 0).sum() == 2 and shares.sum() == pytest.approx(1)
    assert next_token_probabilities(logits, 0.0).tolist() == [[0, 1, 0, 0]]
    with pytest.raises(WorkshopError, match="온도"):
        next_token_probabilities(logits, -1.0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(hidden_size=65), "나누어떨어져야"),
        (dict(num_key_value_heads=3), "고르게 나눌 수 없다"),
        (dict(hidden_size=20, num_attention_heads=4), "홀수"),
        (dict(max_position_embeddings=-1), "max_position_embeddings.* -1이다"),
        (dict(vocab_size=0), "vocab_size.* 0이다"),
        (dict(num_attention_heads=0), "num_attention_heads.* 0이다"),
    ],
)
def test_impossible_shapes_are_refused(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        TransformerConfig(**{"vocab_size": 10, "num_attention_heads": 4, **wrong})


def test_bfloat16_autocast_decodes_too():
    model, ids = Transformer(SMALL, seed=0), torch.randint(0, 97, (2, 20))
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model.prefill(ids[:, :-1])
        logits, state = model.step(ids[:, -1], state)
    assert (logits - model(ids)[:, -1]).abs().max() < 0.02


def test_text_longer_than_the_context_is_refused():
    with pytest.raises(WorkshopError, match="33토큰이 모델의 문맥 길이 32보다 길다"):
        Transformer(SMALL)(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(WorkshopError, match="33토큰"):
        Transformer(SMALL).prefill(torch.zeros(1, 33, dtype=torch.long))
    logits, state = Transformer(SMALL).prefill(torch.zeros(1, 32, dtype=torch.long))
    with pytest.raises(WorkshopError, match="33토큰"):
        Transformer(SMALL).step(logits.argmax(-1), state)


def test_tokens_outside_the_vocabulary_and_empty_texts_are_refused():
    model = Transformer(SMALL)
    for call in (model, model.prefill, lambda ids: model.step(ids[:, 0])):
        with pytest.raises(WorkshopError, match="토큰 번호 97.*어휘 크기 97 밖"):
            call(torch.tensor([[97]]))
        with pytest.raises(WorkshopError, match="토큰 번호 -1"):
            call(torch.tensor([[-1]]))
    with pytest.raises(WorkshopError, match="길이가 1 이상"):
        generate(model, [], 3)
