"""DeepSeek-V3 in one file: latent attention with a compressed cache, and a mixture of experts that balances itself.

Notable choices
- The parameters carry the names of transformers' ``DeepseekV3ForCausalLM``: a state dict goes both ways, and the logits agree.
- Embedding, blocks, cache and decoding are the Transformer's; two parts are new: `LatentAttention` and `Mixture`.
- Training builds keys and values from the compressed vector. Decoding never does: it compares in the compressed space.
- An expert reads the rows routed to it and no others: one product an expert, as many rows in all as tokens times chosen experts.
- The routing bias moves inside a training forward pass, after it was used. Evaluation (`eval` or `no_grad`) leaves it alone.
- Experts are one group (DeepSeek's groups only limit how many machines a token is sent to).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import kernels
from workshop_lib.architectures.language_model import check_sizes
from workshop_lib.architectures.transformer import MLP, Block, Cache, Decoder, RMSNorm, Transformer

LATENT_EPS = 1e-6  # of the two norms inside latent attention; transformers fixes it


@dataclass(frozen=True)
class MoEConfig:
    """Shape of the model. Field names are those of transformers' ``DeepseekV3Config``, but for the last one."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 352  # of the dense layers
    moe_intermediate_size: int = 88  # of one expert
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    first_k_dense_replace: int = 1  # so many first layers have a plain MLP
    routed_scaling_factor: float = 1.0
    q_lora_rank: int | None = None  # None: queries are not compressed
    kv_lora_rank: int = 32  # what the cache keeps of a token, beside its rotated key
    qk_nope_head_dim: int = 16  # dimensions of a head that know no position
    qk_rope_head_dim: int = 16  # dimensions that are turned by it
    v_head_dim: int = 32
    max_position_embeddings: int = 128
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    balance_rate: float = 0.01  # how far the routing bias moves a step; 0.001 in DeepSeek's run, a thousand times as long

    def __post_init__(self) -> None:
        check_sizes(
            self, "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
            "num_attention_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "kv_lora_rank",
            "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings",
        )  # fmt: skip
        if self.q_lora_rank is not None:
            check_sizes(self, "q_lora_rank")
        if self.num_experts_per_tok > self.n_routed_experts:
            raise WorkshopError(_too_many(self.num_experts_per_tok, self.n_routed_experts))
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise WorkshopError(
                f"first_k_dense_replace {self.first_k_dense_replace}은(는) 0과 층수 {self.num_hidden_layers} 사이여야 한다."
            )
        if self.qk_rope_head_dim % 2:
            raise WorkshopError(f"qk_rope_head_dim {self.qk_rope_head_dim}은(는) 홀수라서 둘씩 짝지어 돌릴 수 없다. 짝수로 맞춘다.")
        if self.balance_rate < 0:
            raise WorkshopError(f"balance_rate {self.balance_rate}은(는) 0 이상이어야 한다.")

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key: the part without a position and the part with one."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def from_hf(cls, config, balance_rate: float = 0.01) -> MoEConfig:
        """From a transformers ``DeepseekV3Config``. Raises WorkshopError for options that this file does not have."""
        wrong = [f"{name}={getattr(config, name)}" for name, wanted in _FIXED.items() if getattr(config, name) != wanted]
        if config.rope_parameters["rope_type"] != "default":
            wrong.append(f"rope_type={config.rope_parameters['rope_type']}")
        if wrong:
            raise WorkshopError(f"이 구현에 없는 DeepseekV3Config 설정이다: {', '.join(wrong)}.")
        names = cls.__dataclass_fields__.keys() - {"rope_theta", "balance_rate"}
        wanted = {name: getattr(config, name) for name in names}
        return cls(**wanted, rope_theta=float(config.rope_parameters["rope_theta"]), balance_rate=balance_rate)

    def to_hf(self, **extra):
        """To a transformers ``DeepseekV3Config`` (``extra``: token ids and the like)."""
        from transformers import DeepseekV3Config

        fields = asdict(self)
        del fields["balance_rate"]
        rope = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
        heads = {"num_key_value_heads": self.num_attention_heads}
        return DeepseekV3Config(**fields, **_FIXED, **heads, rope_parameters=rope, num_mtp_layers=0, **extra)


_FIXED = {"n_group": 1, "topk_group": 1, "norm_topk_prob": True, "attention_bias": False, "rope_interleave": True, "hidden_act": "silu"}


def _too_many(k: int, experts: int) -> str:
    return f"전문가 {experts}명 가운데 {k}명을 고를 수 없다. 1과 전문가 수 사이에서 고른다."


def route(scores: Tensor, bias: Tensor, k: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Which k experts read each token, and with what weights (DeepSeek-V3, arXiv 2412.19437, eq. 12–16).

    scores: (tokens, experts), the router's sigmoid outputs; bias: (experts,), which only shifts the choice. The weights are
    the chosen experts' scores without the bias, made to sum to `scale`. Returns indices and weights, both (tokens, k), from the
    expert wanted most to the k-th.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise WorkshopError(_too_many(k, scores.shape[-1]))
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


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1): all heads read one short vector a token.

    A token is compressed to `kv_lora_rank` numbers, from which each head unfolds its key and value. Position would not survive
    the unfolding trick below, so it travels apart: `qk_rope_head_dim` turned dimensions, one key for all heads.
    """

    def __init__(self, config: MoEConfig):
        super().__init__()
        width, self.heads, self.latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        self.nope, self.rope, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        queries = self.heads * config.qk_head_dim
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(width, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, queries, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, self.latent + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.latent, LATENT_EPS)
        self.kv_b_proj = nn.Linear(self.latent, self.heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """x: (batch, time, width) to the like, with rotations `turn` for its positions."""
        return self.extend(x, turn, None)[0]

    def extend(self, x: Tensor, turn: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """As `transformer.Attention.extend`. The cache is one tensor, (batch, 1, positions, latent + rope)."""
        q = self._queries(x).unflatten(-1, (self.heads, -1))  # (batch, time, heads, nope + rope)
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        q_rope = turned(q_rope, turn)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.latent, self.rope), dim=-1)
        latent, k_rope = self.kv_a_layernorm(latent), turned(k_rope.unsqueeze(2), turn)
        keep = torch.cat((latent, k_rope.squeeze(2)), dim=-1).unsqueeze(1)
        if cache is None:
            y = self._unfolded(torch.cat((q_nope, q_rope), dim=-1), latent, k_rope)
        else:
            keep = torch.cat((cache[0], keep), dim=2)
            y = self._compressed(q_nope, q_rope, keep)
        return self.o_proj(y.flatten(2)), (keep,)

    def _queries(self, x: Tensor) -> Tensor:
        if hasattr(self, "q_proj"):
            return self.q_proj(x)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))

    def _unfolded(self, q: Tensor, latent: Tensor, k_rope: Tensor) -> Tensor:
        """Each head's keys and values in full, for a whole text: (batch, time, heads, value)."""
        k_nope, v = self.kv_b_proj(latent).unflatten(-1, (self.heads, -1)).split((self.nope, self.value), dim=-1)
        k = torch.cat((k_nope, k_rope.expand(-1, -1, self.heads, -1)), dim=-1)
        return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), is_causal=True).transpose(1, 2)

    def _compressed(self, q_nope: Tensor, q_rope: Tensor, cache: Tensor) -> Tensor:
        """The same for one token, without unfolding the past.

        A key is K c for the compressed vector c, so q · (K c) = (Kᵀ q) · c: the query goes into the compressed space once,
        instead of every token of the past out of it. Likewise Σ p V c = V (Σ p c). So all heads ask one small cache.
        """
        unfold_k, unfold_v = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split((self.nope, self.value), dim=1)
        asked = torch.einsum("bthn,hnl->bthl", q_nope, unfold_k)
        asked = torch.cat((asked, q_rope), dim=-1)  # (batch, 1, heads, latent + rope): the heads are queries of one head
        found = F.scaled_dot_product_attention(asked, cache, cache, scale=(self.nope + self.rope) ** -0.5)
        return torch.einsum("bthl,hvl->bthv", found[..., : self.latent], unfold_v)  # the turned dimensions are no part of a value


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions with pairs side by side, as DeepSeek lays them out. x: (batch, time, heads, rope); turn: (time, 1, rope / 2)."""
    pairs = torch.complex(*x.float().unflatten(-1, (-1, 2)).unbind(-1))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class Router(nn.Module):
    """Sigmoid scores of all experts, k of them chosen; its bias keeps them equally busy."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.k, self.scale, self.rate = config.num_experts_per_tok, config.routed_scaling_factor, config.balance_rate
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (tokens, width). Indices and weights of the chosen experts, (tokens, k), and each expert's number of tokens."""
        with torch.autocast(x.device.type, enabled=False):  # close scores decide: they stay exact where the rest is bf16
            scores = F.linear(x.float(), self.weight.float()).sigmoid()
        bias = self.e_score_correction_bias
        indices, weights = route(scores, bias, self.k, self.scale)
        counts = indices.flatten().bincount(minlength=len(bias))
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                bias.copy_(balance(bias, counts, self.rate))
        return indices, weights, counts


class Experts(nn.Module):
    """Small SwiGLU networks, their weights stacked: (experts, …)."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        experts, width, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))

    def forward(self, x: Tensor, indices: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """x: (tokens, width); the rest as the router returns it. Returns (tokens, width)."""
        order = indices.flatten().argsort(stable=True)  # all pairs (token, expert), expert by expert
        token = order // indices.shape[1]
        rows = x.index_select(0, token).split(counts.tolist())
        read = zip(rows, self.gate_up_proj.unbind(), self.down_proj.unbind())
        y = torch.cat([_expert(part, gate_up, down) for part, gate_up, down in read if len(part)])
        y = y * weights.flatten().index_select(0, order).unsqueeze(1)
        return torch.zeros_like(x).index_add_(0, token, y.to(x.dtype))


def _expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    return F.linear(kernels.swiglu(*F.linear(x, gate_up).chunk(2, dim=-1)), down)


class Mixture(nn.Module):
    """A shared expert for every token, and the k that the router picks for it (DeepSeekMoE, arXiv 2401.06066)."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.gate, self.experts = Router(config), Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, time, width) to the like: the experts that the gate picks for each token, and those that all tokens share."""
        flat = x.flatten(0, 1)
        return self.experts(flat, *self.gate(flat)).view_as(x) + self.shared_experts(x)


class MoE(Transformer):
    """DeepSeek-V3 causal language model with random weights: the Transformer with other parts in its blocks."""

    config: MoEConfig

    @staticmethod
    def _decoder(config: MoEConfig) -> Decoder:
        def block(number: int) -> Block:
            dense = number < config.first_k_dense_replace
            mlp = MLP(config.hidden_size, config.intermediate_size) if dense else Mixture(config)
            return Block(config.hidden_size, config.rms_norm_eps, LatentAttention(config), mlp)

        return Decoder(config, (block(number) for number in range(config.num_hidden_layers)), config.qk_rope_head_dim)

    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts that do not read it."""
        experts = sum(p.numel() for module in self.modules() if isinstance(module, Experts) for p in module.parameters())
        return self.num_parameters() - experts + experts * self.config.num_experts_per_tok // self.config.n_routed_experts

    def flops_per_token(self, context: int) -> float:
        """As the Transformer's, with the active parameters alone."""
        config = self.config
        vectors = sum(p.numel() for p in self.parameters() if p.ndim == 1)
        matrices = self.active_parameters() - vectors
        matrices -= 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size  # looking up is no product
        attention = config.num_hidden_layers * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
        return 6.0 * (matrices + attention * context)

    @torch.no_grad()
    def routes(self, input_ids: Tensor) -> Tensor:
        """Which experts read which token. input_ids: (batch, time) → (layers with experts, batch, time, k)."""
        self._check(input_ids)
        found: list[Tensor] = []
        gates = [module for module in self.modules() if isinstance(module, Router)]
        hooks = [gate.register_forward_hook(lambda gate, x, y: found.append(y[0].view(*input_ids.shape, -1))) for gate in gates]
        try:
            self.hidden(input_ids)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found)
