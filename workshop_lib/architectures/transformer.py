"""A Llama in one file: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Notable choices
- The parameters carry the names of transformers' ``LlamaForCausalLM``: a state dict goes both ways, and the logits agree.
- ``forward`` returns logits, or, given targets, the loss itself, without ever holding all logits.
- Queries, keys and values are one matrix product over the three weights laid end to end.
- Decoding reads one token and the cache of keys and values: `extend` is what `forward` does, with a past.
- No dropout: in pretraining every token is seen about once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures import kernels
from workshop_lib.architectures.language_model import LanguageModel, check_sizes

Cache = tuple[Tensor, ...]  # what a layer keeps of the past: here keys and values, (batch, kv heads, positions, head) each


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the model. Field names are those of transformers' ``LlamaConfig``."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 128
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                    "num_key_value_heads", "max_position_embeddings")
        if self.hidden_size % self.num_attention_heads:
            raise WorkshopError(
                f"hidden_size {self.hidden_size}는 헤드 수 {self.num_attention_heads}로 나누어떨어져야 한다. "
                "둘 중 하나를 바꾼다."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise WorkshopError(
                f"질의 헤드 {self.num_attention_heads}개를 키·값 헤드 {self.num_key_value_heads}개로 고르게 나눌 수 없다. "
                "키·값 헤드 수를 질의 헤드 수의 약수로 고른다."
            )
        if self.head_dim % 2:
            raise WorkshopError(f"헤드 너비 {self.head_dim}가 홀수라서 회전 위치 임베딩을 쓸 수 없다. 짝수로 맞춘다.")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, config) -> TransformerConfig:
        """From a transformers ``LlamaConfig``."""
        wanted = {name: getattr(config, name) for name in cls.__dataclass_fields__ if name != "rope_theta"}
        return cls(**wanted, rope_theta=float(config.rope_parameters["rope_theta"]))

    def to_hf(self, **extra):
        """To a transformers ``LlamaConfig`` (``extra``: token ids and the like)."""
        from transformers import LlamaConfig

        fields = asdict(self)
        rope = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
        return LlamaConfig(**fields, head_dim=self.head_dim, rope_parameters=rope, attention_bias=False, **extra)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) to the like."""
        return kernels.rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; several query heads may share one key/value head (Ainslie et al. 2023)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.heads, self.kv_heads, self.head = config.num_attention_heads, config.num_key_value_heads, head
        self.q_proj = nn.Linear(width, self.heads * head, bias=False)
        self.k_proj = nn.Linear(width, self.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, self.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(self.heads * head, width, bias=False)
        self.is_causal = True  # week 5 lets the future leak in, to see what that looks like

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """x: (batch, time, width) to what attention adds, the like; `turn`: rotations for its positions."""
        return self.extend(x, turn, None)[0]

    def extend(self, x: Tensor, turn: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """x: (batch, time, width), with rotations `turn` for its positions: a whole text (cache None), or what comes after it.

        Returns what attention adds, and the keys and values so far, (batch, kv heads, positions, head) each. A cached key is
        already turned, in the order of dimensions of `rotated_projection`.
        """
        layers = self.q_proj, self.k_proj, self.v_proj
        if all(type(layer) is nn.Linear for layer in layers):
            q, k, v = kernels.rotated_projection(x, *(layer.weight for layer in layers), turn, self.head)  # (batch, heads, time, head)
        else:  # a layer of another kind (quantised, adapted) has its own way to its output
            q, k, v = kernels.rotated(*(layer(x) for layer in layers), turn, self.head)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal, enable_gqa=self.heads != self.kv_heads)
        else:
            k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
            new, total, mask = q.shape[2], k.shape[2], None
            if new > 1 and self.is_causal:  # each of several new tokens sees the cache and the new ones up to itself
                mask = q.new_ones(new, total, dtype=torch.bool).tril(total - new).repeat(self.heads // self.kv_heads, 1)
            # Query heads that share a key head ask the same cache: several queries of one head, instead of copies of the cache.
            y = F.scaled_dot_product_attention(q.reshape(len(q), self.kv_heads, -1, self.head), k, v, attn_mask=mask).view(q.shape)
        return self.o_proj(y.transpose(1, 2).flatten(2)), (k, v)


class MLP(nn.Module):
    """SwiGLU feed-forward: down(silu(gate(x)) · up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) to the like."""
        return self.down_proj(kernels.swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    """Normalise, mix over time, add; normalise, mix over width, add."""

    def __init__(self, width: int, eps: float, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = mlp

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """x: (batch, time, width) to the like; `turn`: rotations for its positions."""
        x = x + self.self_attn(self.input_layernorm(x), turn)
        return x + self.mlp(self.post_attention_layernorm(x))

    def extend(self, x: Tensor, turn: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """The same after the tokens in `cache`; returns the cache with these as well."""
        y, cache = self.self_attn.extend(self.input_layernorm(x), turn, cache)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Decoder(nn.Module):
    """Embedding, blocks, last norm: what transformers calls ``model`` inside a ``LlamaForCausalLM``.

    `rotary`: how many dimensions of a head carry the position.
    """

    def __init__(self, config: TransformerConfig, blocks: Iterable[Block], rotary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        turn = rotary_table(config.max_position_embeddings, rotary, config.rope_theta)
        self.register_buffer("turn", turn, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (batch, time) to what the output layer reads, (batch, time, width)."""
        turn = self.turn[: ids.shape[1]]
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, turn)
        return self.norm(x)

    def extend(self, ids: Tensor, caches: list[Cache] | None) -> tuple[Tensor, list[Cache]]:
        """The same after the tokens in `caches` (one a layer)."""
        past = caches[0][0].shape[2] if caches else 0
        turn = self.turn[past : past + ids.shape[1]]
        x, extended = self.embed_tokens(ids), []
        for number, block in enumerate(self.layers):
            x, cache = block.extend(x, turn, caches[number] if caches else None)
            extended.append(cache)
        return self.norm(x), extended


class Transformer(LanguageModel):
    """Llama causal language model with random weights."""

    def __init__(self, config: TransformerConfig, seed: int | None = None):
        super().__init__()
        self.config = config
        self.model = self._decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        for parameter in self.parameters():
            if parameter.ndim >= 2:  # norms stay at one
                nn.init.normal_(parameter, std=config.initializer_range, generator=generator)

    @staticmethod
    def _decoder(config: TransformerConfig) -> Decoder:
        def block() -> Block:
            mlp = MLP(config.hidden_size, config.intermediate_size)
            return Block(config.hidden_size, config.rms_norm_eps, Attention(config), mlp)

        return Decoder(config, (block() for _ in range(config.num_hidden_layers)), config.head_dim)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Raises WorkshopError when the text is longer than the context."""
        self._check_length(input_ids.shape[1])
        return self.model(input_ids)

    def step_hidden(self, token: Tensor, state: list[Cache] | None) -> tuple[Tensor, list[Cache]]:
        """State: the keys and values of each layer. It grows by one position a step, up to the context."""
        self._check_length(1 + (state[0][0].shape[2] if state else 0))
        x, state = self.model.extend(token.unsqueeze(1), state)
        return x[:, 0], state

    @torch.no_grad()
    def prefill(self, input_ids: Tensor) -> tuple[Tensor, list[Cache]]:
        """All tokens at once, as in training; their keys and values are the state."""
        self._check(input_ids)
        self._check_length(input_ids.shape[1])
        x, state = self.model.extend(input_ids, None)
        return self.lm_head(x[:, -1]), state

    def _check_length(self, tokens: int) -> None:
        if tokens > self.config.max_position_embeddings:
            raise WorkshopError(
                f"입력 {tokens}토큰이 모델의 문맥 길이 {self.config.max_position_embeddings}보다 길다. "
                "앞부분을 자르거나 문맥이 더 긴 모델을 쓴다."
            )

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one training token, forward and backward (Chowdhery et al. 2022, appendix B).

        6 per weight of a matrix product (the output layer counts even when its weights are the embedding's), and
        12 · layers · width · context for attention's two products.
        """
        config = self.config
        matrices = sum(p.numel() for name, p in self.model.layers.named_parameters() if p.ndim == 2)
        matrices += config.vocab_size * config.hidden_size
        return 6.0 * matrices + 12.0 * config.num_hidden_layers * config.hidden_size * context


def rotary_table(length: int, head: int, theta: float) -> Tensor:
    """e^(i · position · theta^(−2j/head)): (length, 1, head / 2), complex64 (computed in float64)."""
    frequency = theta ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).unsqueeze(1)


def next_token_probabilities(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """What to draw the next token from. logits: (batch, vocabulary) → probabilities of the same shape.

    Divided by the temperature; only the `top_k` likeliest tokens of a row keep a share (Fan et al. 2018).
    Temperature 0 gives the whole share to the likeliest token.
    """
    if temperature < 0:
        raise WorkshopError(f"온도 {temperature}는 0 이상이어야 한다.")
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    return (logits / temperature).softmax(dim=-1)


@torch.no_grad()
def generate(
    model: nn.Module,
    ids: list[int],
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    stop: int | None = None,
) -> list[int]:
    """Continue ``ids``, one token at a time; ends early at ``stop``. Returns the new tokens, ``stop`` left out.

    A `LanguageModel` reads the prompt once and then each new token once. When the text outgrows the context the window
    slides, every position changes, and it is read anew for each token, as it is for a model of transformers.
    """
    context = getattr(model.config, "max_position_embeddings", sys.maxsize)  # a recurrent state has no limit
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    text, state = list(ids), None
    while len(text) < len(ids) + max_new_tokens:
        if isinstance(model, LanguageModel) and len(text) <= context:
            if state is None:
                logits, state = model.prefill(torch.tensor([text], device=device))
            else:
                logits, state = model.step(torch.tensor(text[-1:], device=device), state)
        else:
            logits = model(torch.tensor([text[-context:]], device=device))
            logits = getattr(logits, "logits", logits)[:, -1]
        probabilities = next_token_probabilities(logits.float(), temperature, top_k)
        token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == stop:
            break
        text.append(token)
    return text[len(ids) :]
