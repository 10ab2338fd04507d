"""Operations over time that the state space models share: the short convolution, and the selective scan in chunks.

Both have hand-written gradients, for two reasons. Autograd would keep every (batch, time, inner, state) intermediate of the
scan; and it would add one node per step. Each is checked against its plain definition in ``tests/test_mamba.py``.

How the scan is made parallel (cf. Blelloch 1990; Dao & Gu 2024, section 6 does the same with matrices). The recurrence
h_t = a_t·h_{t−1} + b_t is cut into chunks of ``CHUNK`` steps. All chunks run at once, so that a step is one operation over all
batches, chunks, states and channels:

1. from zero, to learn what each chunk alone leaves in its state;
2. chunk after chunk: state at the start of k + 1 = (product of chunk k's decays) · (state at the start of k) + what it left;
3. again, now from the right start, for the outputs.

No decay is ever divided by, and every exponent is ≤ 0, so nothing overflows at any length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # the most steps of a chunk
SLAB = 32_768  # numbers of one step that are worked on at a time: PyTorch gives more to several threads


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps = weight.t().flip(0)[: x.shape[1]].contiguous()  # (width, channels): taps[k] is for the token k steps ago
        before = x * taps[0] if bias is None else torch.addcmul(bias, x, taps[0])
        for k in range(1, len(taps)):
            before[:, k:].addcmul_(x[:, :-k], taps[k])
        ctx.save_for_backward(x, taps, before)
        ctx.bias, ctx.width = bias is not None, weight.shape[1]
        return F.silu(before)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, taps, before = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad, before)
        dx, product = grad * taps[0], grad * x
        dtaps = grad.new_zeros(ctx.width, x.shape[2])
        dtaps[0] = product.sum((0, 1))
        for k in range(1, len(taps)):
            dx[:, :-k].addcmul_(grad[:, k:], taps[k])
            dtaps[k] = torch.mul(grad[:, k:], x[:, :-k], out=product[:, k:]).sum((0, 1))
        return dx, dtaps.flip(0).t(), grad.sum((0, 1)) if ctx.bias else None


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """silu(depthwise convolution over time that sees only the past).

    x: (batch, time, channels); weight: (channels, width), the last column for the present token; bias: (channels,) or None.
    A few shifted products: PyTorch's grouped convolution is several times slower at these shapes on a CPU.
    """
    return _CausalConv.apply(x, weight, bias)


def causal_conv_step(x: Tensor, past: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same for one more token. x: (batch, channels); past: (batch, width − 1, channels) → output and the new past."""
    window = torch.cat((past, x.unsqueeze(1)), dim=1)  # (batch, width, channels)
    y = (window * weight.t()).sum(1)
    return F.silu(y if bias is None else y + bias), window[:, 1:]


def last_inputs(x: Tensor, count: int) -> Tensor:
    """The last `count` tokens of x (batch, time, channels), zeros before its first: what `causal_conv_step` wants as past."""
    return F.pad(x, (0, 0, max(count - x.shape[1], 0), 0))[:, -count:] if count else x[:, :0]


def by_step(x: Tensor, length: int) -> Tensor:
    """(batch, time, ...) → (length, chunks · batch, ...), contiguous; zeros are added to fill the last chunk.

    A step with dt = 0 neither decays nor adds: padding leaves the state as it is.
    """
    batch, time = x.shape[:2]
    chunks = -(-time // length)
    if fill := chunks * length - time:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, fill))
    return x.unflatten(1, (chunks, length)).permute(2, 1, 0, *range(3, x.ndim + 1)).flatten(1, 2).contiguous()


def by_time(x: Tensor, batch: int, time: int) -> Tensor:
    """The way back: (length, chunks · batch, ...) → (batch, time, ...)."""
    return x.unflatten(1, (-1, batch)).permute(2, 1, 0, *range(3, x.ndim + 1)).flatten(1, 2)[:, :time]


def _run(decay: Tensor, states: Tensor, before: Tensor, reverse: bool = False) -> None:
    """states[t] ← states[t] + decay[t]·states[t − 1], in place; (length, rows, state, inner). `before`: (rows, state, inner).

    With `reverse`, the same from the last step to the first: states[t] + decay[t + 1]·states[t + 1], and `before` is what the
    last one gets from behind the chunk.
    """
    steps = zip(states.unbind(), decay.unbind())
    if not reverse:
        for state, fade in steps:
            before = state.addcmul_(fade, before)
        return
    states[-1].add_(before)
    later = list(steps)[::-1]
    for (after, fade), (state, _) in zip(later, later[1:]):
        state.addcmul_(fade, after)


class _SelectiveScan(torch.autograd.Function):
    """dx = dt·x and dt: (length, rows, 1, inner); A_log: (state, inner); B, C: (length, rows, state, 1).

    A row is one chunk of one sequence, chunks outermost. The channels stand last, so that every product is contiguous. Rows are
    taken a few at a time: what is computed for them stays in the cache, and a step is too small to be worth a second thread.
    """

    @staticmethod
    def forward(ctx, dx: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, batch: int):
        A = -torch.exp(A_log)
        length, rows = dx.shape[:2]
        start = dx.new_zeros(rows, *A.shape)
        whole = torch.exp(dt.sum(0) * A)  # decay of a whole chunk
        parts, room = _parts(rows, length, A, count=2)
        if rows > batch:
            left = torch.empty_like(start)
            for part in _parts(rows - batch, length, A)[0]:  # what the last chunk leaves is nobody's start
                decay, h = (buffer(part) for buffer in room)
                torch.mul(dt[:, part], A, out=decay).exp_()
                torch.mul(B[:, part], dx[:, part], out=h)
                _run(decay, h, start[part])
                left[part] = h[-1]
            for k in range(batch, rows, batch):
                torch.addcmul(left[k - batch : k], whole[k - batch : k], start[k - batch : k], out=start[k : k + batch])
        y, last = torch.empty_like(dx), torch.empty_like(start)
        for part in parts:
            decay, h = (buffer(part) for buffer in room)
            torch.mul(dt[:, part], A, out=decay).exp_()
            torch.mul(B[:, part], dx[:, part], out=h)
            _run(decay, h, start[part])
            y[:, part] = C[:, part].transpose(2, 3) @ h
            last[part] = h[-1]
        ctx.save_for_backward(dx, dt, A, B, C, start, whole)
        ctx.batch = batch
        last = last[rows - batch :].clone()
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx, dy: Tensor, _):
        dx, dt, A, B, C, start, whole = ctx.saved_tensors
        batch, (length, rows) = ctx.batch, dx.shape[:2]
        parts, room = _parts(rows, length, A, count=3)
        end = torch.zeros_like(start)  # gradient of each chunk's last state, from the chunks behind it
        if rows > batch:
            left = torch.empty_like(start)
            for part in _parts(rows, length, A, first=batch)[0]:
                decay, g, _ = (buffer(part) for buffer in room)
                torch.mul(dt[:, part], A, out=decay).exp_()
                torch.mul(C[:, part], dy[:, part], out=g)
                _run(decay, g, end[part], reverse=True)
                torch.mul(decay[0], g[0], out=left[part])
            for k in range(rows - batch, 0, -batch):
                torch.addcmul(left[k : k + batch], whole[k : k + batch], end[k : k + batch], out=end[k - batch : k])
        ddx, ddt, dB, dC = (torch.empty_like(x) for x in (dx, dt, B, C))
        dA_log = torch.zeros_like(A)
        for part in parts:
            decay, h, faded = (buffer(part) for buffer in room)
            torch.mul(dt[:, part], A, out=decay).exp_()
            torch.mul(B[:, part], dx[:, part], out=h)  # the states again, instead of having kept them
            _run(decay, h, start[part])
            torch.mul(decay[0], start[part], out=faded[0])
            torch.mul(decay[1:], h[:-1], out=faded[1:])
            dC[:, part] = h @ dy[:, part].transpose(2, 3)
            g = torch.mul(C[:, part], dy[:, part], out=h)
            _run(decay, g, end[part], reverse=True)  # now the gradient of the state after each step
            ddx[:, part] = B[:, part].transpose(2, 3) @ g
            dB[:, part] = g @ dx[:, part].transpose(2, 3)
            faded.mul_(g).mul_(A)  # gradient of dt·A, times A
            ddt[:, part] = faded.sum(2, keepdim=True)
            dA_log += faded.mul_(dt[:, part]).sum((0, 1))  # A = −exp(A_log) is its own derivative
        return ddx, ddt, dA_log, dB, dC, None


def _parts(rows: int, length: int, A: Tensor, count: int = 0, first: int = 0):
    """How to take the rows a few at a time: their slices, and `count` buffers (length, some rows, state, inner) to work in."""
    some = max(SLAB // A.numel(), 1) if A.device.type == "cpu" else rows
    some = min(some, rows)
    memory = A.new_empty(count, length * some * A.numel())

    def buffer(flat: Tensor):
        return lambda part: flat[: length * (part.stop - part.start) * A.numel()].view(length, -1, *A.shape)

    return [slice(k, min(k + some, rows)) for k in range(first, rows, some)], [buffer(flat) for flat in memory]


def selective_scan(x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(−dt_t·e^A_log)·h_{t−1} + dt_t·B_t·x_t, y_t = C_t·h_t, for all t, in chunks (Gu & Dao 2023, eq. 2).

    x, dt: (batch, time, inner); A_log: (inner, state); B, C: (batch, time, state).
    Returns y: (batch, time, inner) and the last state (batch, inner, state), which has no gradient.
    """
    batch, time = x.shape[:2]
    length = min(max(batch * time * A_log.numel() // SLAB, 8), CHUNK, time)  # short texts: shorter chunks, but more at once
    length = -(-time // -(-time // length))
    dx, dt = (by_step(part, length).unsqueeze(2) for part in (dt * x, dt))
    B, C = (by_step(part, length).unsqueeze(3) for part in (B, C))
    y, last = _SelectiveScan.apply(dx, dt, A_log.t().contiguous(), B, C, batch)
    return by_time(y.squeeze(2), batch, time), last.transpose(1, 2)
