"""RWKV-7 "Goose" (Peng et al. 2025, arXiv 2503.14456): a matrix for a memory, which forgets, corrects itself and never grows."""

from __future__ import annotations

from torch import Tensor


def state_step(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of RWKV-7's recurrence (eq. 16 and 17), for all heads at once; the state that came in is left as it was.

    The state S is a table that answers a key with a value: S k ≈ v. A token first lets each key dimension fade (w), then reads what
    the table answers to the key `a` and writes that answer under the key `b` (with a = −κ and b = rate · κ this takes the old
    answer away), then writes v under k, and at last reads with r:

        S ← S · diag(w) + (S a) bᵀ + v kᵀ          y = S r

    r, k, a, b: (batch, heads, key); w: the same, the share that is kept, in (0, 1); v: (batch, heads, value);
    state: (batch, heads, value, key), the S before this token. Both terms of the sum read this old S.
    Returns y: (batch, heads, value), and the S after this token.
    """
    removed = (state @ a.unsqueeze(-1)) @ b.unsqueeze(-2)  # (batch, heads, value, key): the outer product of S a and b
    state = state * w.unsqueeze(-2) + removed + v.unsqueeze(-1) * k.unsqueeze(-2)
    return (state @ r.unsqueeze(-1)).squeeze(-1), state
