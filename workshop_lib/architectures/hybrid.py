"""A hybrid: mostly Mamba-2, a few islands of attention (Nemotron-H, NVIDIA 2025, arXiv 2504.03624; Nemotron Nano 2, 2508.14444).

The state of the Mamba-2 layers is small and fades; an attention layer here and there can look up any token exactly. Most of the
cache of a Transformer is gone, what it is good for stays.

Notable choices
- A pattern says what each layer is, as in NVIDIA's configurations: ``M`` Mamba-2, ``*`` attention, ``-`` feed-forward.
- Attention has no positions: the Mamba-2 layers know the order. So there is no length at which rotations become unfamiliar.
- The feed-forward is down(relu(up(x))²) (So et al. 2021, Primer).
- The parameters carry the names of transformers' ``NemotronHForCausalLM``: a state dict goes both ways, and the logits agree.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import mamba2
from workshop_lib.architectures.language_model import check_sizes
from workshop_lib.architectures.mamba import StateSpaceModel, check_time_step, initialize


@dataclass(frozen=True)
class HybridConfig:
    """Shape of the model. Field names are those of transformers' ``NemotronHConfig``; `pattern` has a letter for each layer."""

    vocab_size: int
    hidden_size: int = 256
    pattern: str = "M-M*M-M-"
    intermediate_size: int = 512  # of the feed-forward layers
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 64
    mamba_num_heads: int = 8
    mamba_head_dim: int = 64
    ssm_state_size: int = 64
    n_groups: int = 1
    conv_kernel: int = 4
    chunk_size: int = 64
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    layer_norm_epsilon: float = 1e-5
    use_conv_bias: bool = True
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        check_sizes(self, "mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel", "chunk_size")
        check_time_step(self)
        if not self.pattern or set(self.pattern) - set("M*-"):
            raise WorkshopError(
                f"층 무늬 '{self.pattern}'을(를) 읽을 수 없다. M(Mamba-2), *(어텐션), -(피드포워드)만 써서 적는다. 예: M-M*M-M-"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise WorkshopError(
                f"질의 헤드 {self.num_attention_heads}개를 키·값 헤드 {self.num_key_value_heads}개로 고르게 나눌 수 없다. "
                "키·값 헤드 수를 질의 헤드 수의 약수로 고른다."
            )
        mamba2.check_groups(self.mamba_num_heads, self.n_groups)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of all three kinds: one a letter of the pattern."""
        return len(self.pattern)

    def mixer(self) -> mamba2.MixerShape:
        """Of the Mamba-2 layers. As in Nemotron-H, a time step is never below time_step_min."""
        return mamba2.MixerShape(
            width=self.hidden_size, heads=self.mamba_num_heads, head=self.mamba_head_dim, state=self.ssm_state_size,
            groups=self.n_groups, taps=self.conv_kernel, chunk=self.chunk_size, eps=self.layer_norm_epsilon,
            conv_bias=self.use_conv_bias, dt_limit=(self.time_step_min, math.inf),
        )

    @classmethod
    def from_hf(cls, config) -> HybridConfig:
        """From a transformers ``NemotronHConfig``. Raises WorkshopError for what this file does not have (experts, biases)."""
        if config.use_bias or config.mlp_bias or config.mamba_hidden_act != "silu" or config.mlp_hidden_act != "relu2":
            raise WorkshopError("선형 층에 편향이 있거나 활성 함수가 silu·relu2가 아닌 Nemotron-H는 읽을 수 없다. 설정을 확인한다.")
        wanted = {name: getattr(config, name) for name in cls.__dataclass_fields__ if name != "pattern"}
        return cls(**wanted, pattern=config.hybrid_override_pattern)

    def to_hf(self, **extra):
        """To a transformers ``NemotronHConfig`` (``extra``: token ids and the like)."""
        from transformers import NemotronHConfig

        fields = asdict(self)
        return NemotronHConfig(**fields, hybrid_override_pattern=fields.pop("pattern"), **extra)


class Attention(nn.Module):
    """Causal self-attention without positions; several query heads may share one key/value head."""

    def __init__(self, config: HybridConfig):
        super().__init__()
        width, self.head = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(width, self.heads * self.head, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * self.head, bias=False)
        self.v_proj = nn.Linear(width, self.kv_heads * self.head, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head, width, bias=False)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        qkv = F.linear(x, weight).unflatten(-1, (-1, self.head)).transpose(1, 2)
        return qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)  # (batch, heads, time, head)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: (batch, time, width) → the same shape, and the cache: keys and values (batch, kv heads, time, head)."""
        q, k, v = self._project(x)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(y.transpose(1, 2).flatten(2)), (k, v)

    def step(self, x: Tensor, cache: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token. x: (batch, width) → (batch, width) and the longer cache."""
        q, k, v = self._project(x.unsqueeze(1))
        if cache is not None:
            k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
        # Query heads that share a key head ask the same cache: several queries of one head, instead of copies of the cache.
        y = F.scaled_dot_product_attention(q.reshape(len(q), self.kv_heads, -1, self.head), k, v)
        return self.o_proj(y.flatten(1)), (k, v)


class MLP(nn.Module):
    """down(relu(up(x))²). It mixes nothing over time, so it has no state."""

    def __init__(self, config: HybridConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple]:
        """x: (batch, time, width). Returns the like, and a state, which an MLP has none of."""
        return self.down_proj(F.relu(self.up_proj(x)).square()), ()

    def step(self, x: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        """As `forward`, with one token."""
        return self(x)


def _mixer(config: HybridConfig, letter: str) -> nn.Module:
    if letter == "M":
        return mamba2.Mixer(config.mixer())
    return Attention(config) if letter == "*" else MLP(config)


class Hybrid(StateSpaceModel):
    """Nemotron-H causal language model with random weights."""

    body = "model"

    def __init__(self, config: HybridConfig, seed: int | None = None):
        super().__init__(config, [_mixer(config, letter) for letter in config.pattern])
        initialize(self, seed)

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one training token, forward and backward; only the attention layers see the context."""
        config = self.config
        scan = config.pattern.count("M") * mamba2.scan_flops_per_token(config.mixer())
        attention = 12.0 * config.pattern.count("*") * config.num_attention_heads * config.head_dim * context
        return self.matrix_flops_per_token() + scan + attention
