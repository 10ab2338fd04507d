"""DeepSeek-V3 in one file: latent attention with a compressed cache, and a mixture of experts that balances itself."""

from __future__ import annotations

import torch
from torch import Tensor

from workshop_lib import WorkshopError


def route(scores: Tensor, bias: Tensor, k: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Which k experts read each token, and with what weights (DeepSeek-V3, arXiv 2412.19437, eq. 12–16).

    scores: (tokens, experts), the router's sigmoid outputs; bias: (experts,), which only shifts the choice. The weights are
    the chosen experts' scores without the bias, made to sum to `scale`. Returns indices and weights, both (tokens, k), from the
    expert wanted most to the k-th.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise WorkshopError(f"전문가 {scores.shape[-1]}명 가운데 {k}명을 고를 수 없다. 1과 전문가 수 사이에서 고른다.")
    indices = (scores + bias).topk(k, dim=-1).indices
    chosen = scores.gather(-1, indices)
    return indices, scale * chosen / (chosen.sum(dim=-1, keepdim=True) + 1e-20)


def balance(bias: Tensor, counts: Tensor, rate: float) -> Tensor:
    """New routing bias: `rate` more for experts that read fewer tokens than the mean, `rate` less for those with more.

    bias: (experts,); counts: (experts,), tokens each expert read in the last batch. No gradient, no extra loss (Wang et al.
    2024, arXiv 2408.15664, algorithm 1).
    """
    counts = counts.to(bias.dtype)
    return bias + rate * torch.sign(counts.mean() - counts)
