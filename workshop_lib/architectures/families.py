"""The seven architectures of week 4 at any size, and the size at which they meet one budget of parameters.

Notable choices
- `build_model` turns one dial of each architecture (the width of its feed-forward part, its state's size, its own width) until
  its total parameters, embeddings included, meet the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from workshop_lib import WorkshopError
from workshop_lib.architectures.hybrid import Hybrid, HybridConfig
from workshop_lib.architectures.language_model import LanguageModel
from workshop_lib.architectures.mamba import Mamba, MambaConfig
from workshop_lib.architectures.mamba2 import Mamba2, Mamba2Config
from workshop_lib.architectures.moe import MoE, MoEConfig
from workshop_lib.architectures.rnn import RNN, RNNConfig
from workshop_lib.architectures.rwkv import Rwkv, RwkvConfig
from workshop_lib.architectures.transformer import Transformer, TransformerConfig

TITLES = {
    "rnn": "RNN", "transformer": "Transformer", "mamba": "Mamba", "mamba2": "Mamba-2", "rwkv": "RWKV-7", "moe": "MoE + MLA",
    "hybrid": "하이브리드",
}  # fmt: skip
TOLERANCE = 0.05  # how far a model's parameters may lie from the budget


@dataclass(frozen=True)
class Family:
    """An architecture at every size: `config(vocabulary, width, layers, context, dial)`, larger with its dial."""

    model: type[LanguageModel]
    config: Callable[[int, int, int, int, int], object]
    dial: Callable[[int], int]  # where it starts, given the width
    step: int  # it turns by so much
    deepens: bool = False  # no feed-forward part: as many layers as the budget has room for


def families() -> dict[str, Family]:
    """The seven, in the order of `TITLES`."""
    return {
        "rnn": Family(RNN, _rnn, lambda width: 8, 1),
        "transformer": Family(Transformer, _transformer, lambda width: 8, 8),
        "mamba": Family(Mamba, _mamba, lambda width: width, 4, deepens=True),
        "mamba2": Family(Mamba2, _mamba2, lambda width: 32, 4, deepens=True),
        "rwkv": Family(Rwkv, _rwkv, lambda width: 8, 8),
        "moe": Family(MoE, _moe, lambda width: 2, 2),
        "hybrid": Family(Hybrid, _hybrid, lambda width: 8, 4),
    }


def _rnn(vocabulary: int, width: int, layers: int, context: int, dial: int) -> RNNConfig:
    return RNNConfig(vocabulary, dial, layers)


def _transformer(vocabulary: int, width: int, layers: int, context: int, dial: int) -> TransformerConfig:
    heads = heads_of(width)
    return TransformerConfig(vocabulary, width, dial, layers, heads, heads, max_position_embeddings=context)


def _mamba(vocabulary: int, width: int, layers: int, context: int, dial: int) -> MambaConfig:
    return MambaConfig(vocabulary, dial, layers)


def _mamba2(vocabulary: int, width: int, layers: int, context: int, dial: int) -> Mamba2Config:
    return Mamba2Config(vocabulary, width, layers, num_heads=2 * heads_of(width), head_dim=width // heads_of(width), state_size=dial)


def _rwkv(vocabulary: int, width: int, layers: int, context: int, dial: int) -> RwkvConfig:
    return RwkvConfig(vocabulary, width, dial, layers, head_size=width // heads_of(width))


def _moe(vocabulary: int, width: int, layers: int, context: int, dial: int) -> MoEConfig:
    """One shared and two of eight routed experts read a token; the first layer's plain MLP is as wide as those three."""
    heads, latent = heads_of(width), max(width // 3, 8)
    return MoEConfig(vocabulary, width, 3 * dial, dial, layers, heads, kv_lora_rank=latent, max_position_embeddings=context)


def _hybrid(vocabulary: int, width: int, layers: int, context: int, dial: int) -> HybridConfig:
    heads, head = heads_of(width), width // heads_of(width)
    return HybridConfig(
        vocabulary, width, pattern(layers), dial, heads, heads, head, mamba_num_heads=2 * heads, mamba_head_dim=head, ssm_state_size=32
    )


def pattern(layers: int) -> str:
    """A hybrid's layers: a feed-forward after every Mamba-2, one island of attention to about four of them. 3: M-M*-M-"""
    islands = max(layers // 4, 1)
    after = {(2 * n + 1) * (layers + 1) // (2 * islands) for n in range(islands)}
    return "".join("M*-" if number in after else "M-" for number in range(1, layers + 1))


def heads_of(width: int) -> int:
    """Attention heads of 32 dimensions, as many as the width has room for."""
    return max(width // 32, 1)


def build_model(
    name: str, vocab_size: int, parameters: int, width: int, layers: int, context: int = 4_096, seed: int = 0, **changes: object
) -> LanguageModel:
    """A model of an architecture with about `parameters` numbers to train, embeddings included.

    layers: pairs of a mixing and a feed-forward part. context: the longest text that it will ever be asked to read (no matter
    for a model without positions). changes: fields of every architecture's configuration.
    Raises WorkshopError for an unknown name and where no dial comes within 5 % of the budget.
    """
    known = families()
    if name not in known:
        raise WorkshopError(f"구조 '{name}'은(는) 없다. {', '.join(known)} 가운데 하나를 쓴다.")
    family = known[name]

    def config(turns: int) -> object:
        return replace(family.config(vocab_size, width, layers, context, family.dial(width) + turns * family.step), **changes)

    def size(turns: int) -> int:
        with torch.device("meta"):  # counts without filling in a number
            return family.model(config(turns)).num_parameters()

    if family.deepens:
        layers = 1
        while size(0) <= parameters:
            layers += 1
        layers = max(layers - 1, 1)
    low, high = 0, 1
    while size(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < parameters else (low, middle)
    turns = min((low, high), key=lambda n: abs(size(n) - parameters))
    if abs(size(turns) - parameters) > TOLERANCE * parameters:
        raise WorkshopError(
            f"{TITLES[name]}을(를) 파라미터 {parameters:,}개에 맞출 수 없다. 너비 {width}, {layers}층에서 가장 가까운 크기가 "
            f"{size(turns):,}개이다. 너비나 층수를 줄이거나 예산을 늘린다."
        )
    return family.model(config(turns), seed)
