"""Mamba: a state space model whose step depends on the token (Gu & Dao 2023, arXiv 2312.00752)."""

from __future__ import annotations

import torch
from torch import Tensor


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the selective scan: h ← exp(dt·A)·h + dt·B·x, then y = C·h + D·x (Gu & Dao 2023, eq. 2 and algorithm 2).

    x, dt: (batch, inner); A: (inner, state), negative; B, C: (batch, state), shared by all channels; D: (inner,);
    h: (batch, inner, state). Returns y: (batch, inner) and the new h; its arguments stay as they were.
    """
    decay = torch.exp(dt.unsqueeze(-1) * A)  # (batch, inner, state)
    h = decay * h + (dt * x).unsqueeze(-1) * B.unsqueeze(1)
    y = (h * C.unsqueeze(1)).sum(-1) + D * x
    return y, h


def selective_scan_reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`selective_scan_step` token after token: what the fast scan must equal.

    x, dt: (batch, time, inner); B, C: (batch, time, state); h: (batch, inner, state), None = zeros.
    Returns y: (batch, time, inner) and the state after the last token.
    """
    h = x.new_zeros(x.shape[0], *A.shape) if h is None else h
    out = []
    for t in range(x.shape[1]):
        y, h = selective_scan_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h)
        out.append(y)
    return torch.stack(out, dim=1), h
