"""Attention in plain steps agrees with PyTorch's own, and the cache's arithmetic with the cache."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from workshop_lib import WorkshopError
from workshop_lib.architectures import attention
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.exercises import normal


@pytest.mark.parametrize("seed", range(5))
def test_attention_equals_torch(seed):
    r = random.Random(seed)
    batch, heads, queries, keys, head = (r.randrange(1, 6) for _ in range(5))
    q, k, v = normal(batch, heads, queries, head), normal(batch, heads, keys, head, seed=1), normal(batch, heads, keys, 3, seed=2)
    mask = normal(queries, keys, seed=3) > 0
    mask[:, 0] = True
    for chosen in (None, mask):
        ours = attention.scaled_dot_product_attention(q, k, v, chosen)
        torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=chosen))
    weights = attention.attention_weights(q, k, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, heads, queries))
    assert (weights.masked_select(~mask) == 0).all()


def test_the_plain_layer_equals_torch_and_is_causal():
    layer, theirs = attention.MultiHeadAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.q_proj.bias, layer.k_proj.bias, layer.v_proj.bias]))
        theirs.out_proj.weight.copy_(layer.o_proj.weight)
        theirs.out_proj.bias.copy_(layer.o_proj.bias)
    x, mask = normal(2, 7, 12), attention.causal_mask(7)
    torch.testing.assert_close(layer(x, mask), theirs(x, x, x, attn_mask=~mask, need_weights=False)[0])
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(layer(x, mask)[:, :4], layer(changed, mask)[:, :4])
    assert not torch.allclose(layer(x)[:, :4], layer(changed)[:, :4])


def test_rotation_equals_transformers_and_keeps_only_distances():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, positions = normal(2, 3, 9, 8), torch.arange(5, 14)
    angle = torch.cat([positions[:, None] * 500.0 ** (-torch.arange(0, 8, 2) / 8)] * 2, dim=-1)[None]
    wanted, _ = apply_rotary_pos_emb(x, x, angle.cos(), angle.sin())
    torch.testing.assert_close(attention.rotate(x, positions, 500.0), wanted)
    q, k = normal(1, 8), normal(1, 8, seed=1)
    near = attention.rotate(q, torch.tensor([7])) @ attention.rotate(k, torch.tensor([3])).t()
    far = attention.rotate(q, torch.tensor([4_007])) @ attention.rotate(k, torch.tensor([4_003])).t()
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_cached_steps_equal_causal_attention(seed):
    batch, heads, time, head = (random.Random(seed).randrange(1, 7) for _ in range(4))
    q, k, v = (normal(batch, heads, time, head, seed=n) for n in range(3))
    cache, steps = None, []
    for t in range(time):
        here = slice(t, t + 1)
        y, cache = attention.cached_attention_step(q[:, :, here], k[:, :, here], v[:, :, here], cache)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 2), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(cache, (k, v))
    assert state_bytes(cache) == batch * time * attention.cache_bytes_per_token("mha", 1, heads, heads, head, bytes=4)


def test_cache_sizes_of_published_models():
    # Llama-3 8B: 32 layers, 32 heads, 8 of them for keys and values, 128 wide; DeepSeek-V3: 61 layers, 128 heads, 512 + 64 cached.
    assert attention.cache_bytes_per_token("gqa", 32, 32, 8, 128) == 131_072
    assert attention.cache_bytes_per_token("mha", 32, 32, 8, 128) == 4 * 131_072
    assert attention.cache_bytes_per_token("mla", 61, 128, 128, 128, latent=512, rope=64) == 70_272
    assert attention.cache_bytes_per_token("mqa", 2, 8, 8, 16, bytes=4) == 2 * 2 * 16 * 4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: attention.MultiHeadAttention(10, 3), "너비 10은.* 헤드 3개로"),
        (lambda: attention.split_heads(normal(1, 2, 10), 4), "너비 10은.* 헤드 4개로"),
        (lambda: attention.rotate(normal(2, 5), torch.arange(2)), "홀수"),
        (lambda: attention.scaled_dot_product_attention(normal(2, 3), normal(2, 4), normal(2, 4)), "너비 3.*너비 4"),
        (lambda: attention.scaled_dot_product_attention(*[normal(2, 3)] * 3, torch.zeros(2, 2, dtype=torch.bool)), "모든 키를 가린"),
        (lambda: attention.cache_bytes_per_token("mgqa", 1, 1, 1, 1), "종류 'mgqa'"),
        (lambda: attention.cache_bytes_per_token("mha", 0, 1, 1, 1), "layers.* 0이다"),
        (lambda: attention.cache_bytes_per_token("mla", 1, 1, 1, 1), "latent.* 0이다"),
    ],
)
def test_wrong_shapes_are_refused_in_korean(call, message):
    with pytest.raises(WorkshopError, match=message):
        call()


def test_scores_are_divided_by_the_root_of_the_head():
    weights = attention.attention_weights(torch.tensor([[4.0, 0, 0, 0]]), torch.eye(4)[:2])
    assert weights[0, 0] == pytest.approx(math.e**2 / (math.e**2 + 1))
