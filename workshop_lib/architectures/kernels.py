"""Four operations of a Llama step whose gradients are written by hand, because on a CPU they cost more than they should.

A small model's step is half matrix products, half passes over memory. Each function here does what its one-line
definition says and saves passes:

- ``rms_norm``: PyTorch differentiates it as six elementwise operations; the kernel behind layer norm can do it in one.
- ``rotated_projection``: one matrix product for queries, keys and values, turned in the buffer it has just written.
- ``swiglu``: keeps its two inputs and recomputes silu in the backward pass instead of storing it.
- ``linear_cross_entropy``: never holds the (tokens, vocabulary) logits. It takes a few hundred tokens at a time,
  computes their loss and, while the softmax is still in the cache, their gradient.

On a GPU, in bf16 and under ``torch.compile`` the plain definitions are used. Each is checked against its plain definition
in ``tests/test_transformer.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512  # tokens whose logits are alive at once; 256 to 1,024 are equally fast
FEW = 32  # tokens to decode at once, up to which it is cheaper to reorder their queries and keys than the weights


def _by_hand(x: Tensor) -> bool:
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    return not plain and not torch.compiler.is_compiling()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        # Layer norm with mean 0 differs from RMSNorm by one term, -scale · mean(grad · weight): give it back.
        grad = grad.contiguous()
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, (width,), torch.zeros_like(scale), scale, weight, None, (True, True, False)
        )
        dx.add_((grad @ weight).unsqueeze(-1).mul_(scale).div_(width))
        return dx, dweight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019, eq. 4)."""
    if not _by_hand(x):
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)
    if not torch.is_grad_enabled():  # a function of autograd costs a decoding step more than its arithmetic
        return (x * _inverse_rms(x, eps)).mul_(weight)
    return _RmsNorm.apply(x, weight, eps)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class _RotatedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, turn: Tensor, heads: int, kv_heads: int):
        qkv = F.linear(x, weight).unflatten(-1, (heads + 2 * kv_heads, -1))
        _pairs(qkv[:, :, : heads + kv_heads]).mul_(turn)
        ctx.save_for_backward(x, weight, turn)
        return qkv.transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, weight, turn = ctx.saved_tensors
        dq, dk, dv = (grad.transpose(1, 2) for grad in grads)  # (batch, time, heads, head)
        heads, kv_heads = dq.shape[2], dk.shape[2]
        buffer = x.new_empty(*x.shape[:2], heads + 2 * kv_heads, dq.shape[3])
        to_q, to_k, to_v = buffer.split((heads, kv_heads, kv_heads), dim=2)
        back = turn.conj().resolve_conj()  # the gradient of a rotation is the rotation back
        torch.mul(_pairs(dq), back, out=_pairs(to_q))
        torch.mul(_pairs(dk), back, out=_pairs(to_k))
        to_v.copy_(dv)
        flat = buffer.flatten(0, 1).flatten(1)
        return (flat @ weight).view_as(x), flat.t() @ x.flatten(0, 1), None, None, None


def rotated_projection(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, turn: Tensor, head: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of x, with rotary positions on the first two (Su et al. 2021, eq. 34).

    x: (batch, time, width); q, k, v: projection weights (heads · head, width); turn: (time, 1, head / 2), complex,
    e^(i · position · frequency). Returns three (batch, heads, time, head).
    transformers pairs dimension i with i + head / 2. Queries and keys meet only in their dot product, so their dimensions
    may be reordered together: with pairs side by side, a rotation is one complex product.
    """
    if x.shape[1] <= FEW and not torch.is_grad_enabled():  # a decoding step: reorder vectors rather than two matrices
        return rotated(*(F.linear(x, weight) for weight in (q, k, v)), turn, head)
    weight = torch.cat((_interleaved(q, head), _interleaved(k, head), v))
    heads, kv_heads = len(q) // head, len(k) // head
    if _by_hand(x):
        return _RotatedProjection.apply(x, weight, turn, heads, kv_heads)
    q, k, v = F.linear(x, weight).unflatten(-1, (-1, head)).split((heads, kv_heads, kv_heads), dim=2)
    q, k = (torch.view_as_real(_pairs(y.float()) * turn).flatten(-2).to(y.dtype) for y in (q, k))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def rotated(q: Tensor, k: Tensor, v: Tensor, turn: Tensor, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same from projections that are already there: q, k, v (batch, time, heads · head) each."""
    q, k, v = (y.unflatten(-1, (-1, head)) for y in (q, k, v))
    q, k = (torch.view_as_real(torch.complex(*y.float().chunk(2, -1)) * turn).flatten(-2).to(y.dtype) for y in (q, k))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _interleaved(weight: Tensor, head: int) -> Tensor:
    return weight.view(-1, 2, head // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (Shazeer 2020, eq. 6)."""
    if not _by_hand(gate):
        return F.silu(gate) * up
    return _SwiGlu.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate).mul_(up)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        keep = (targets != -100).unsqueeze(1).to(x.dtype)  # (tokens, 1)
        dx, dweight, total = torch.empty_like(x), torch.zeros_like(weight), x.new_zeros(())
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            rows, live, wanted = x[part], keep[part], targets[part].clamp(min=0).unsqueeze(1)
            scores = torch.log_softmax(rows @ weight.t(), dim=-1)  # (chunk, vocabulary)
            total -= (scores.gather(1, wanted) * live).sum()
            grad = scores.exp_().scatter_add_(1, wanted, torch.full_like(live, -1.0))  # softmax − one-hot
            torch.mm(grad, weight, out=dx[part])
            dweight.addmm_(grad.t(), rows * live)
        count = keep.sum().clamp(min=1)
        ctx.save_for_backward(dx.mul_(keep / count), dweight.div_(count))
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor):
        dx, dweight = ctx.saved_tensors
        return dx * grad, dweight * grad, None


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(x Wᵀ)[target] over the targets that are not −100.

    x: (tokens, width); weight: (vocabulary, width); targets: (tokens,). Returns a scalar in nats.
    """
    if _by_hand(x) and torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(x, weight, targets)
    return F.cross_entropy(F.linear(x, weight).float(), targets)
