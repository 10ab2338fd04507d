"""Mamba: a state space model whose step depends on the token (Gu & Dao 2023, arXiv 2312.00752).

Each channel keeps `state_size` numbers instead of a cache of all tokens. They fade by exp(dt·A) and take in dt·B·x at every
token; dt, B and C are computed from the token itself, which is what "selective" means.

Notable choices
- The parameters carry the names of transformers' ``MambaForCausalLM``: a state dict goes both ways, and the logits agree.
- Training runs the scan in chunks, all chunks at once (``scans.py``); on a GPU with ``mamba_ssm`` its kernel does it.
- The state of a layer is the last inputs of the convolution and h: the same size after ten tokens and after a million.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import kernels, scans
from workshop_lib.architectures.language_model import LanguageModel, check_sizes
from workshop_lib.architectures.transformer import RMSNorm


@dataclass(frozen=True)
class MambaConfig:
    """Shape of the model. Field names are those of transformers' ``MambaConfig``."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 4
    state_size: int = 16
    expand: int = 2
    conv_kernel: int = 4
    time_step_rank: int = 0  # 0: a sixteenth of the width, rounded up
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    layer_norm_epsilon: float = 1e-5
    use_conv_bias: bool = True
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "hidden_size", "num_hidden_layers", "state_size", "expand", "conv_kernel")
        check_time_step(self)
        if self.time_step_rank < 0:
            raise WorkshopError(f"time_step_rank {self.time_step_rank}는 0 이상이어야 한다. 0이면 너비에 맞추어 정한다.")
        if self.time_step_rank == 0:
            object.__setattr__(self, "time_step_rank", math.ceil(self.hidden_size / 16))

    @property
    def intermediate_size(self) -> int:
        """Width inside a block."""
        return self.expand * self.hidden_size

    @classmethod
    def from_hf(cls, config) -> MambaConfig:
        """From a transformers ``MambaConfig``. Raises WorkshopError for what this file does not have (biases, other gates)."""
        if config.use_bias or config.hidden_act != "silu":
            raise WorkshopError("선형 층에 편향이 있거나 활성 함수가 silu가 아닌 Mamba는 읽을 수 없다. use_bias와 hidden_act를 확인한다.")
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def to_hf(self, **extra):
        """To a transformers ``MambaConfig`` (``extra``: token ids and the like)."""
        from transformers import MambaConfig as HfConfig

        return HfConfig(**asdict(self), **extra)


def check_time_step(config) -> None:
    """Refuse a range of time steps that is empty or not positive."""
    low, high = config.time_step_min, config.time_step_max
    if not 0 < low <= high:
        raise WorkshopError(f"time_step_min {low}과 time_step_max {high}는 0 < 최솟값 ≤ 최댓값이어야 한다.")


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


def has_cuda_kernels(x: Tensor) -> bool:
    """Whether x is on a GPU and the authors' package mamba_ssm is installed."""
    return x.is_cuda and importlib.util.find_spec("mamba_ssm") is not None


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened to float32; float32 and float64 as they are. A long sum in half precision drifts."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def selective_scan(x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """The scan over a whole sequence, as fast as this machine can: y (batch, time, inner) and the last state.

    Shapes as in `selective_scan_reference`, but A_log = ln(−A). Computed in float32, like the recurrence in every Mamba.
    """
    dtype = x.dtype
    x, dt, B, C = (at_least_float32(part) for part in (x, dt, B, C))
    if has_cuda_kernels(x):
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        swapped = (part.transpose(1, 2).contiguous() for part in (x, dt))
        B, C = (part.transpose(1, 2).contiguous() for part in (B, C))
        y, last = selective_scan_fn(*swapped, -torch.exp(A_log), B, C, D, return_last_state=True)
        return y.transpose(1, 2).to(dtype), last
    with torch.autocast(x.device.type, enabled=False):
        y, last = scans.selective_scan(x, dt, A_log, B, C)
        return torch.addcmul(y, x, D).to(dtype), last


class Mixer(nn.Module):
    """Mixes over time: widen, convolve over four tokens, scan, gate, narrow (Gu & Dao 2023, figure 3)."""

    def __init__(self, config: MambaConfig):
        super().__init__()
        inner, self.rank, self.state = config.intermediate_size, config.time_step_rank, config.state_size
        self.in_proj = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner, bias=config.use_conv_bias)
        self.x_proj = nn.Linear(inner, self.rank + 2 * self.state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, self.state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The token's own dt (…, inner), B and C (…, state)."""
        dt, B, C = self.x_proj(x).split((self.rank, self.state, self.state), dim=-1)
        return F.softplus(self.dt_proj(dt)), B, C

    def forward(self, u: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """u: (batch, time, width) → the same shape, and the state after the last token: (past inputs, h)."""
        x, gate = self.in_proj(u).chunk(2, dim=-1)  # (batch, time, inner) each
        past = scans.last_inputs(x.detach(), self.conv1d.kernel_size[0] - 1)
        x = scans.causal_conv(x, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        dt, B, C = self.selection(x)
        y, h = selective_scan(x, dt, self.A_log, B, C, self.D)
        return self.out_proj(kernels.swiglu(gate, y)), (past, h)

    def step(self, u: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token. u: (batch, width) → (batch, width) and the new state."""
        x, gate = self.in_proj(u).chunk(2, dim=-1)
        if state is None:
            past = x.new_zeros(len(x), self.conv1d.kernel_size[0] - 1, x.shape[1])
            state = past, x.new_zeros(*x.shape, self.state)
        x, past = scans.causal_conv_step(x, state[0], self.conv1d.weight.squeeze(1), self.conv1d.bias)
        dt, B, C = self.selection(x)
        y, h = selective_scan_step(x, dt, -torch.exp(self.A_log), B, C, self.D, state[1])
        return self.out_proj(F.silu(gate) * y), (past, h)


class Block(nn.Module):
    """Normalise, mix over time, add. There is no separate feed-forward: the mixer widens and gates."""

    def __init__(self, config, mixer: nn.Module):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = mixer


class Backbone(nn.Module):
    """Embedding, blocks, last norm: what transformers calls ``backbone`` inside a ``MambaForCausalLM``."""

    def __init__(self, config, mixers: list[nn.Module]):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, mixer) for mixer in mixers)
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)


class StateSpaceModel(LanguageModel):
    """A stack of mixers with a state: what Mamba, Mamba-2 and the hybrid have in common.

    A mixer's `forward(x)` gives its output over a whole sequence and the state after it; `step(x, state)` reads one token.
    """

    body = "backbone"  # what transformers calls the stack

    def __init__(self, config, mixers: list[nn.Module]):
        super().__init__()
        self.config = config
        setattr(self, self.body, Backbone(config, mixers))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.stack.embeddings.weight

    @property
    def stack(self) -> Backbone:
        """The layers with what stands before and behind them, under the name that the library's checkpoint has for it."""
        return getattr(self, self.body)

    def _read(self, input_ids: Tensor) -> tuple[Tensor, list]:
        x, states = self.stack.embeddings(input_ids), []
        for block in self.stack.layers:
            y, state = block.mixer(block.norm(x))
            x = x + y
            states.append(state)
        return x, states

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Ids (batch, time) to what the output layer reads, (batch, time, width)."""
        return self.stack.norm_f(self._read(input_ids)[0])

    def step_hidden(self, token: Tensor, state: list | None) -> tuple[Tensor, list]:
        """Ids (batch,) of one more token to (batch, width), and the state with it read: one entry a layer."""
        x, states = self.stack.embeddings(token), []
        for block, before in zip(self.stack.layers, state or [None] * len(self.stack.layers)):
            y, after = block.mixer.step(block.norm(x), before)
            x = x + y
            states.append(after)
        return self.stack.norm_f(x), states

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> tuple[Tensor, list]:
        """Read a prompt at once. input_ids: (batch, time) → logits after its last token (batch, vocabulary), and the state."""
        self._check(input_ids)
        x, states = self._read(input_ids)
        return self.lm_head(self.stack.norm_f(x[:, -1])), states

    def matrix_flops_per_token(self) -> float:
        """6 per weight of a matrix product, the output layer included (its weights may be the embedding's)."""
        matrices = sum(m.weight.numel() for m in self.stack.layers.modules() if isinstance(m, nn.Linear))
        return 6.0 * (matrices + self.config.vocab_size * self.config.hidden_size)


@torch.no_grad()
def initialize(model: StateSpaceModel, seed: int | None) -> None:
    """Random weights: matrices and convolutions uniform within 1/√(inputs), what is added to the residual smaller by √layers.

    Time steps begin between time_step_min and time_step_max, evenly in their logarithm (Gu & Dao 2023, section 3.6): some
    channels forget within ten tokens, some within a thousand.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    nn.init.normal_(model.stack.embeddings.weight, std=config.initializer_range, generator=generator)
    if not config.tie_word_embeddings:
        nn.init.normal_(model.lm_head.weight, std=config.initializer_range, generator=generator)
    for name, parameter in model.stack.layers.named_parameters():
        if name.endswith(("A_log", ".D", "norm.weight")):
            continue
        if name.endswith(("dt_proj.bias", "dt_bias")):
            low, high = math.log(config.time_step_min), math.log(config.time_step_max)
            dt = torch.empty_like(parameter).uniform_(low, high, generator=generator).exp_()
            parameter.copy_(dt + torch.log(-torch.expm1(-dt)))  # what softplus makes dt of
        elif parameter.ndim == 1:
            nn.init.zeros_(parameter)
        else:
            bound = parameter[0].numel() ** -0.5
            if name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight")):
                bound /= config.num_hidden_layers**0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)


class Mamba(StateSpaceModel):
    """Mamba causal language model with random weights."""

    def __init__(self, config: MambaConfig, seed: int | None = None):
        super().__init__(config, [Mixer(config) for _ in range(config.num_hidden_layers)])
        initialize(self, seed)

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one training token, forward and backward; the same for every context.

        The scan: nine for each channel and state (decay 2, update 4, output 3), three times for forward and backward.
        """
        config = self.config
        scan = 27.0 * config.num_hidden_layers * config.intermediate_size * config.state_size
        return self.matrix_flops_per_token() + scan
