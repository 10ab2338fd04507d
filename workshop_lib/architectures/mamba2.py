"""Mamba-2: the state space model as matrix products (Dao & Gu 2024, arXiv 2405.21060).

One decay a head and token instead of one for every channel and state: that is all it gives up against Mamba. In return, what
token s gives to token t is (C_t·B_s)·(decay from s to t)·dt_s·x_s: attention without softmax, with a mask that fades. Inside a chunk
it is computed so, with matrix products; between chunks a state is carried on ("state space duality", section 6).

Notable choices
- The parameters carry the names of transformers' ``Mamba2ForCausalLM``: a state dict goes both ways, and the logits agree.
- Decays are exponentials of differences of cumulative sums, masked before the exponential: every exponent is ≤ 0.
- The gradient is written by hand, because autograd would keep and multiply (length × length) matrices it does not need.
- Heads of a group share B and C, so their states are one product: (state × chunk) @ (chunk × heads·head).
- On a GPU with ``mamba_ssm`` its kernel does the scan.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import kernels, scans
from workshop_lib.architectures.language_model import check_sizes
from workshop_lib.architectures.mamba import StateSpaceModel, at_least_float32, check_time_step, has_cuda_kernels, initialize

CHUNK = 64  # longer chunks cost more inside (their square) than they save between; the result is the same


@dataclass(frozen=True)
class Mamba2Config:
    """Shape of the model. Field names are those of transformers' ``Mamba2Config``; num_heads · head_dim = expand · hidden_size."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int = 8
    head_dim: int = 64
    state_size: int = 64
    n_groups: int = 1
    expand: int = 2
    conv_kernel: int = 4
    chunk_size: int = 64
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    layer_norm_epsilon: float = 1e-5
    use_conv_bias: bool = True
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "head_dim", "state_size", "n_groups")
        check_sizes(self, "expand", "conv_kernel", "chunk_size")
        check_time_step(self)
        if self.num_heads * self.head_dim != self.expand * self.hidden_size:
            raise WorkshopError(
                f"헤드 {self.num_heads}개 × 너비 {self.head_dim} = {self.num_heads * self.head_dim}은(는) "
                f"expand × hidden_size = {self.expand * self.hidden_size}과 같아야 한다. num_heads나 head_dim을 고친다."
            )
        check_groups(self.num_heads, self.n_groups)

    def mixer(self) -> MixerShape:
        """The shape of every layer's mixer."""
        return MixerShape(
            width=self.hidden_size, heads=self.num_heads, head=self.head_dim, state=self.state_size, groups=self.n_groups,
            taps=self.conv_kernel, chunk=self.chunk_size, eps=self.layer_norm_epsilon, conv_bias=self.use_conv_bias,
            dt_limit=self.time_step_limit,
        )

    @classmethod
    def from_hf(cls, config) -> Mamba2Config:
        """From a transformers ``Mamba2Config``. Raises WorkshopError for what this file does not have (biases, other gates)."""
        if config.use_bias or config.hidden_act != "silu":
            raise WorkshopError("선형 층에 편향이 있거나 활성 함수가 silu가 아닌 Mamba-2는 읽을 수 없다. use_bias와 hidden_act를 확인한다.")
        wanted = {name: getattr(config, name) for name in cls.__dataclass_fields__}
        return cls(**wanted | {"time_step_limit": tuple(config.time_step_limit)})

    def to_hf(self, **extra):
        """To a transformers ``Mamba2Config`` (``extra``: token ids and the like)."""
        from transformers import Mamba2Config as HfConfig

        return HfConfig(**asdict(self), **extra)


@dataclass(frozen=True)
class MixerShape:
    """What a mixer must know; the hybrid builds the same mixer from other fields."""

    width: int
    heads: int
    head: int
    state: int
    groups: int
    taps: int  # tokens that the short convolution sees
    chunk: int
    eps: float
    conv_bias: bool
    dt_limit: tuple[float, float]

    @property
    def inner(self) -> int:
        """Width inside the mixer: all heads side by side."""
        return self.heads * self.head

    @property
    def split(self) -> tuple[int, int, int]:
        """Widths of what `in_proj` gives: gate; x, B and C; dt."""
        return self.inner, self.inner + 2 * self.groups * self.state, self.heads


def check_groups(heads: int, groups: int) -> None:
    """Refuse heads that cannot be shared out evenly among the groups."""
    if heads % groups:
        raise WorkshopError(f"헤드 {heads}개를 그룹 {groups}개로 고르게 나눌 수 없다. n_groups를 헤드 수의 약수로 고른다.")


def decay_matrix(log_decay: Tensor) -> Tensor:
    """What of token s is left at token t: the mask of state space duality (Dao & Gu 2024, section 3).

    log_decay: (…, time), ≤ 0 → (…, time, time): exp(sum over s + 1 … t) for s ≤ t, 0 for s > t.
    """
    total = log_decay.cumsum(-1)
    later = torch.ones(total.shape[-1:] * 2, dtype=torch.bool, device=total.device).triu(1)
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -math.inf).exp()


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: h ← exp(dt·A)·h + dt·x Bᵀ, then y = h C + D·x (Dao & Gu 2024, eq. 1 with a scalar A for each head).

    x: (batch, heads, head); dt: (batch, heads); A, D: (heads,); B, C: (batch, groups, state); h: (batch, heads, head, state).
    Returns y like x and the new h; its arguments stay as they were.
    """
    B, C = (part.repeat_interleave(x.shape[1] // part.shape[1], dim=1) for part in (B, C))  # (batch, heads, state)
    decay = torch.exp(dt * A)[..., None, None]
    h = decay * h + (dt.unsqueeze(-1) * x).unsqueeze(-1) * B.unsqueeze(-2)
    return (h @ C.unsqueeze(-1)).squeeze(-1) + D.unsqueeze(-1) * x, h


def ssd_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """`ssd_step` token after token, from an empty state: what the chunked form must equal. Time is the second dimension."""
    h, out = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]), []
    for t in range(x.shape[1]):
        y, h = ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h)
        out.append(y)
    return torch.stack(out, dim=1), h


class _Ssd(torch.autograd.Function):
    """Inside and between chunks, with the gradient written by hand; shapes as in `ssd`, cut into chunks.

    x: (batch, chunks, length, heads, head); dt, and total = ln of the decay since the chunk began: (batch, chunks, heads, length);
    B, C: (batch, chunks, groups, length, state); D: (heads, 1). Inside, v = dt·x: (batch, chunks, heads, length, head).
    The gradient of `total` needs no product with the mask: where a factor exp(total_t − total_s) stands, its derivative is
    (gradient · what it multiplies), so token t gets dy_t·y_t, and token s gives v_s·dv_s away.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dt: Tensor, total: Tensor, B: Tensor, C: Tensor, D: Tensor):
        groups, heads = B.shape[2], x.shape[3]
        by_head = x.transpose(2, 3)
        v = torch.mul(by_head, dt.unsqueeze(-1), out=x.new_empty(by_head.shape))
        # Between two tokens of a chunk. What lies above the diagonal is set to exp(0) first and to zero with the scores.
        mask = (total.unsqueeze(-1) - total.unsqueeze(-2)).clamp_(max=0).exp_()  # (…, heads, length, length)
        scores = (C @ B.transpose(-1, -2)).tril_()  # (batch, chunks, groups, length, length)
        weights = scores.unsqueeze(3) * mask.unflatten(2, (groups, -1))
        weights = weights.flatten(2, 3)  # (batch, chunks, heads, length, length)
        y = weights @ v
        # Between chunks: what each one leaves, carried on from one to the next.
        fade = (total[..., -1:] - total).exp_().unsqueeze(-1)  # from s to the end of the chunk
        left = _joined(v * fade, groups).transpose(-1, -2) @ B  # (batch, chunks, groups, heads·head, state)
        whole = total[..., -1].exp().repeat_interleave(v.shape[-1], -1).view(*left.shape[:-1], 1)
        start = torch.empty_like(left)
        start[:, 0] = 0
        for k in range(1, left.shape[1]):
            torch.addcmul(left[:, k - 1], whole[:, k - 1], start[:, k - 1], out=start[:, k])
        since = total.exp().unsqueeze(-1)
        y.addcmul_(_by_head(C @ start.transpose(-1, -2), heads), since)
        last = torch.addcmul(left[:, -1], whole[:, -1], start[:, -1]).view(len(v), heads, v.shape[-1], -1)
        ctx.save_for_backward(x, dt, v, y, B, C, D, mask, weights, fade, since, start, whole)
        ctx.mark_non_differentiable(last)
        return torch.addcmul(y.transpose(2, 3), x, D, out=x.new_empty(x.shape)), last

    @staticmethod
    def backward(ctx, dy: Tensor, _):
        x, dt, v, y, B, C, D, mask, weights, fade, since, start, whole = ctx.saved_tensors
        groups, heads = B.shape[2], v.shape[2]
        dD = torch.linalg.vecdot(dy, x).sum((0, 1, 2)).unsqueeze(-1)
        dx = dy * D
        dy = dy.transpose(2, 3).contiguous()
        dv = weights.transpose(-1, -2) @ dy
        dscores = (dy @ v.transpose(-1, -2)).mul_(mask)
        dscores = dscores.unflatten(2, (groups, -1)).sum(3).tril_()
        got = _joined(dy * since, groups)  # gradient of C·start
        dC = (dscores @ B).add_(got @ start)
        dB = dscores.transpose(-1, -2) @ C
        dstart = got.transpose(-1, -2) @ C
        end = torch.empty_like(start)  # gradient of what a chunk passes on
        end[:, -1] = 0
        for k in range(start.shape[1] - 1, 0, -1):
            torch.addcmul(dstart[:, k], whole[:, k], end[:, k], out=end[:, k - 1])
        dB += _joined(v * fade, groups) @ end
        dv.addcmul_(_by_head(B @ end.transpose(-1, -2), heads), fade)
        ddt = torch.linalg.vecdot(x.transpose(2, 3), dv)
        dtotal = torch.linalg.vecdot(dy, y) - dt * ddt
        dx.addcmul_(dv.transpose(2, 3), dt.transpose(2, 3).unsqueeze(-1))
        passed = (end[:, :-1] * start[:, 1:]).sum(-1)  # the end of the chunk decays all that it passes on
        dtotal[:, :-1, :, -1] += passed.view(*passed.shape[:2], heads, v.shape[-1]).sum(-1)
        return dx, ddt, dtotal, dB, dC, dD


def _joined(x: Tensor, groups: int) -> Tensor:
    """(batch, chunks, heads, length, head) → (batch, chunks, groups, length, heads of a group · head)."""
    return x.unflatten(2, (groups, -1)).transpose(3, 4).flatten(4)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """The way back: (batch, chunks, groups, length, heads of a group · head) → (batch, chunks, heads, length, head)."""
    return x.unflatten(4, (heads // x.shape[2], -1)).transpose(3, 4).flatten(2, 3)


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """The same over a whole sequence in chunks (Dao & Gu 2024, listing 1).

    x: (batch, time, heads, head); dt: (batch, time, heads); A, D: (heads,); B, C: (batch, time, groups, state).
    Returns y like x and the last state (batch, heads, head, state), which has no gradient.
    """
    time = x.shape[1]
    chunks = -(-time // min(chunk, CHUNK))
    length = -(-time // chunks)
    if fill := chunks * length - time:  # dt = 0 neither decays nor adds
        x, dt, B, C = (F.pad(part, (0, 0) * (part.ndim - 2) + (0, fill)) for part in (x, dt, B, C))
    x, dt, B, C = (part.unflatten(1, (chunks, length)) for part in (x, dt, B, C))
    dt, B, C = (part.transpose(2, 3).contiguous() for part in (dt, B, C))
    y, h = _Ssd.apply(x, dt, (dt * A.unsqueeze(-1)).cumsum(-1), B, C, D.unsqueeze(-1))
    return y.flatten(1, 2)[:, :time], h


def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """`ssd`, by the authors' kernel where there is one. In float32, as the recurrence of every Mamba."""
    dtype = x.dtype
    x, dt, B, C = (at_least_float32(part) for part in (x, dt, B, C))
    if has_cuda_kernels(x):
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        y, h = mamba_chunk_scan_combined(x, dt, A, B, C, chunk, D=D, return_final_states=True)
        return y.to(dtype), h
    with torch.autocast(x.device.type, enabled=False):
        y, h = ssd(x, dt, A, B, C, D, chunk)
        return y.to(dtype), h


class GatedNorm(nn.Module):
    """RMSNorm of y · silu(gate), each group of channels by itself (Dao & Gu 2024, section 7.1)."""

    def __init__(self, width: int, groups: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups, self.eps = groups, eps

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """y, gate: (batch, time, inner) to the like: RMS norm of y · silu(gate), over each group by itself."""
        y = kernels.swiglu(gate, y)
        if self.groups == 1:
            return kernels.rms_norm(y, self.weight, self.eps)
        size = y.shape[-1] // self.groups
        return F.rms_norm(y.unflatten(-1, (self.groups, size)), (size,), None, self.eps).flatten(-2) * self.weight


class Mixer(nn.Module):
    """Mixes over time: one projection for everything, convolve, scan, gate and normalise, narrow (Dao & Gu 2024, figure 6)."""

    def __init__(self, shape: MixerShape):
        super().__init__()
        self.shape, channels = shape, shape.split[1]
        self.in_proj = nn.Linear(shape.width, sum(shape.split), bias=False)
        self.conv1d = nn.Conv1d(channels, channels, shape.taps, groups=channels, bias=shape.conv_bias)
        self.dt_bias = nn.Parameter(torch.zeros(shape.heads))
        self.A_log = nn.Parameter(torch.arange(1.0, shape.heads + 1).log())
        self.D = nn.Parameter(torch.ones(shape.heads))
        self.norm = GatedNorm(shape.inner, shape.groups, shape.eps)
        self.out_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def _parts(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x (…, heads, head), dt (…, heads), A (heads,), B and C (…, groups, state), D (heads,)."""
        shape = self.shape
        x, B, C = xBC.split((shape.inner, shape.groups * shape.state, shape.groups * shape.state), dim=-1)
        B, C = (part.unflatten(-1, (shape.groups, -1)) for part in (B, C))
        dt = F.softplus(dt + self.dt_bias)
        if shape.dt_limit != (0.0, math.inf):
            dt = dt.clamp(*shape.dt_limit)
        return x.unflatten(-1, (shape.heads, -1)), dt, -torch.exp(self.A_log), B, C, self.D

    def forward(self, u: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """u: (batch, time, width) → the same shape, and the state after the last token: (past inputs, h)."""
        gate, xBC, dt = self.in_proj(u).split(self.shape.split, dim=-1)
        past = scans.last_inputs(xBC.detach(), self.shape.taps - 1)
        xBC = scans.causal_conv(xBC, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        y, h = scan(*self._parts(xBC, dt), self.shape.chunk)
        return self.out_proj(self.norm(y.flatten(2), gate)), (past, h)

    def step(self, u: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token. u: (batch, width) → (batch, width) and the new state."""
        shape = self.shape
        gate, xBC, dt = self.in_proj(u).split(shape.split, dim=-1)
        if state is None:
            past = u.new_zeros(len(u), shape.taps - 1, shape.split[1])
            state = past, u.new_zeros(len(u), shape.heads, shape.head, shape.state)
        xBC, past = scans.causal_conv_step(xBC, state[0], self.conv1d.weight.squeeze(1), self.conv1d.bias)
        y, h = ssd_step(*self._parts(xBC, dt), state[1])
        return self.out_proj(self.norm(y.flatten(1), gate)), (past, h)


def scan_flops_per_token(shape: MixerShape) -> float:
    """Of one layer, forward and backward: inside chunks (scores and weights), and two products with the state."""
    return 6.0 * (shape.chunk * (shape.groups * shape.state + shape.inner) + 2 * shape.inner * shape.state)


class Mamba2(StateSpaceModel):
    """Mamba-2 causal language model with random weights."""

    def __init__(self, config: Mamba2Config, seed: int | None = None):
        super().__init__(config, [Mixer(config.mixer()) for _ in range(config.num_hidden_layers)])
        initialize(self, seed)

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one training token, forward and backward; the same for every context."""
        return self.matrix_flops_per_token() + self.config.num_hidden_layers * scan_flops_per_token(self.config.mixer())
