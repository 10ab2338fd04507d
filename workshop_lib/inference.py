"""Writing faster without changing what is written: the cache, batches, prefixes read once, and a draft that a model only checks.

Notable choices
- Everything here gives what `transformer.generate` gives, or draws from the same distribution. The tests hold it to that.
- `cached_attention` is the formula; the models do the same in `Attention.extend`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workshop_lib import WorkshopError
from workshop_lib.architectures.attention import scaled_dot_product_attention

# --- the cache ----------------------------------------------------------------------------------------------------------


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Causal attention of the newest tokens, one or several, after those in the cache.

    q, k, v: (batch, heads, new, head); cache: (keys, values) of the tokens before, (batch, heads, past, head) each, or None.
    Returns y (batch, heads, new, head) and the cache with the new tokens. New token i sees all of the past and new tokens 0 … i.
    """
    if cache is not None:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    new, total = q.shape[2], k.shape[2]
    mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return scaled_dot_product_attention(q, k, v, mask), (k, v)


# --- waiting times ------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank: the ⌈share · n⌉-th smallest).

    percentile(waits, 0.95) is p95: a wait that really occurred, with at least 95 % of the waits no longer.
    Raises WorkshopError for no values or a share outside (0, 1].
    """
    if not len(values):
        raise WorkshopError("값이 하나도 없어 백분위수를 구할 수 없다.")
    if not 0 < share <= 1:
        raise WorkshopError(f"비율은 0보다 크고 1 이하여야 한다(p95는 0.95). 받은 값: {share}")
    rank = math.ceil(share * len(values) - 1e-9)  # 0.07 · 100 is 7.000000000000001
    return sorted(values)[rank - 1]


# --- speculative decoding -----------------------------------------------------------------------------------------------


def accept(target: Tensor, draft: Tensor, token: int, u: float) -> tuple[bool, Tensor]:
    """Keep a token that the draft proposed? And if not: what to draw its replacement from.

    target, draft: (vocabulary,) probabilities of the two models; token: drawn from `draft`; u: uniform in [0, 1). Kept if
    u < target[token] / draft[token]. Replacements come from max(0, target − draft), scaled to sum to 1: what the draft
    proposes too rarely. Kept or replaced, the token is distributed as `target` (Leviathan et al. 2023, arXiv 2211.17192, theorem 1).
    Returns (kept, distribution of the replacement); where both models agree nothing is ever replaced, and it is `target`.
    """
    missing = (target - draft).clamp(min=0)
    total = missing.sum()
    kept = bool(u * draft[token] < target[token])  # no division: a draft probability may be 0
    return kept, missing / total if total > 0 else target
