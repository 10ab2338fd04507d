"""Attention, written as its formula is written: what the Transformer and the MoE model do faster, in plain steps.

Notable choices
- Heads are an axis of their own: every tensor is (batch, heads, time, head).
- A mask says where a query may look (True) and is the only thing that makes attention causal.
- The layer of the course's first draft (`MultiHeadAttention`: four projections, split, scaled dot product, merge) is kept as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError

KINDS = ("mha", "gqa", "mqa", "mla")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, time, heads · head) → (batch, heads, time, head)."""
    if x.shape[-1] % heads:
        raise WorkshopError(f"너비 {x.shape[-1]}은(는) 헤드 {heads}개로 나누어떨어지지 않는다. 헤드 수를 너비의 약수로 고른다.")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, time, head) → (batch, time, heads · head)."""
    return x.transpose(1, 2).flatten(2)


def causal_mask(time: int) -> Tensor:
    """(time, time) of booleans: a place may look at itself and at what came before it."""
    return torch.ones(time, time, dtype=torch.bool).tril()


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √head): how much each query takes from each key (Vaswani et al. 2017, eq. 1).

    q: (…, queries, head); k: (…, keys, head); mask: booleans that broadcast to (…, queries, keys), True = may look.
    Returns (…, queries, keys); a row sums to 1. Raises WorkshopError when a query may look nowhere: its softmax has no value.
    """
    if q.shape[-1] != k.shape[-1]:
        raise WorkshopError(f"질의의 너비 {q.shape[-1]}과(와) 키의 너비 {k.shape[-1]}이(가) 달라서 내적할 수 없다.")
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        if not mask.any(-1).all():
            raise WorkshopError("마스크가 모든 키를 가린 질의가 있다. 질의마다 볼 수 있는 자리가 하나 이상 있어야 한다.")
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """For each query, the mean of the values, weighted by how well their keys fit it (Vaswani et al. 2017, eq. 1).

    q: (…, queries, head); k: (…, keys, head); v: (…, keys, value); mask as in `attention_weights`. Returns (…, queries, value).
    """
    return attention_weights(q, k, mask) @ v


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary positions: turns each pair of dimensions by position · frequency (Su et al. 2021, eq. 34).

    x: (…, time, head); positions: (time,). Dimension i is paired with i + head / 2 (as in transformers' Llama) and turns
    by position · theta^(−2i / head). The dot product of two turned vectors depends on the distance of their positions only.
    """
    head = x.shape[-1]
    if head % 2:
        raise WorkshopError(f"헤드 너비 {head}은(는) 홀수라서 둘씩 짝지어 돌릴 수 없다. 짝수로 맞춘다.")
    frequency = theta ** -(torch.arange(0, head, 2, device=x.device, dtype=torch.float64) / head)
    angle = positions.to(torch.float64)[:, None] * frequency  # (time, head / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def cached_attention_step(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attention of the newest token: its key and value join the cache, its query looks at all of it.

    q, k, v: (batch, heads, 1, head); cache: (keys, values), each (batch, heads, tokens so far, head), or None before the first
    token. Returns y (batch, heads, 1, head) and the cache with one more token. No mask: nothing in the cache is the future.
    """
    if cache is not None:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    return scaled_dot_product_attention(q, k, v), (k, v)


def cache_bytes_per_token(
    kind: str, layers: int, heads: int, kv_heads: int, head: int, latent: int = 0, rope: int = 0, bytes: int = 2
) -> int:
    """What one token adds to the decoding cache, in bytes.

    kind: 'mha' (a key and a value for each head), 'gqa' (for each of `kv_heads`), 'mqa' (one for all heads), 'mla' (one
    compressed vector of `latent` numbers and one rotated key of `rope`, shared by all heads; DeepSeek-V2, arXiv 2405.04434).
    `bytes`: of one number (2: bf16). Raises WorkshopError for another kind and for sizes below 1.
    """
    if kind not in KINDS:
        raise WorkshopError(f"캐시의 종류 '{kind}'은(는) 없다. {', '.join(KINDS)} 가운데 하나를 쓴다.")
    sizes = {"layers": layers, "bytes": bytes}
    sizes |= {"latent": latent} if kind == "mla" else {"heads": heads, "kv_heads": kv_heads, "head": head}
    for name, size in sizes.items():
        if size < 1:
            raise WorkshopError(f"{name}이(가) {size}이다. 1 이상이어야 한다.")
    numbers = {
        "mha": 2 * heads * head,
        "gqa": 2 * kv_heads * head,
        "mqa": 2 * head,
        "mla": latent + rope,
    }
    return layers * numbers[kind] * bytes


class MultiHeadAttention(nn.Module):
    """Plain multi-head attention: four projections, split heads, scaled dot product, mask, softmax, merge (Vaswani et al. 2017, §3.2)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise WorkshopError(f"너비 {width}은(는) 헤드 {heads}개로 나누어떨어지지 않는다. 헤드 수를 너비의 약수로 고른다.")
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (batch, time, width); mask: (time, time) of booleans or None. Returns (batch, time, width)."""
        q, k, v = (split_heads(project(x), self.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(scaled_dot_product_attention(q, k, v, mask)))
