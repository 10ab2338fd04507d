"""One decoding step for a table of texts, each at a position of its own: under the serving engine and under rollouts of week 9.

Notable choices
- Every step has the same shape: all rows, all positions of the cache, the empty ones masked. A matrix product rounds differently for
  another number of rows, but not for other contents: so a row gets the same bits alone and in company. Some kernels also round the last
  rows of a table differently (AVX2 in a table of 8, not in one of 10); `even_rows` finds a size that treats all rows alike.
- Which token follows is decided by a number that the caller gives each row (`draw`): a row's luck is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.architectures.transformer import Transformer, next_token_probabilities
from workshop_lib.decoding import keep_top_p

GREEDY_BELOW = 1e-4  # a temperature below this is 0: the logits divided by it would overflow


@dataclass(frozen=True)
class Sampling:
    """How to draw the next token: temperature, then top-k, then top-p, as in `decoding.next_probabilities`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether always the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW


PLAIN = Sampling()  # from the model's own distribution


def decode_step(model: Transformer, tokens: Tensor, positions: Tensor, cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Read one token of each row at that row's own position. tokens, positions: (rows,) → logits (rows, vocabulary).

    cache: keys and values of each layer, (rows, kv heads, context, head); the new ones are written into it. A row sees its positions up
    to and including its own: what stands behind them is of an earlier request.
    """
    decoder, rows = model.model, torch.arange(len(tokens), device=tokens.device)
    turn = decoder.turn[positions].unsqueeze(1)  # (rows, 1, 1, head / 2)
    seen = (torch.arange(cache[0][0].shape[2], device=tokens.device) <= positions[:, None])[:, None, None]  # (rows, 1, 1, context)
    x = decoder.embed_tokens(tokens).unsqueeze(1)  # (rows, 1, width)
    for block, (keys, values) in zip(decoder.layers, cache):
        attention, y = block.self_attn, block.input_layernorm(x)
        q, k, v = (
            projection(y).unflatten(-1, (-1, attention.head)).squeeze(1)  # (rows, heads, head)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        keys[rows, :, positions], values[rows, :, positions] = _turned(k, turn.squeeze(1)), v
        # Query heads that share a key head are several queries of that one head.
        q = _turned(q, turn.squeeze(1)).unflatten(1, (attention.kv_heads, -1))
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        x = x + attention.o_proj(y.flatten(1).unsqueeze(1))
        x = x + block.mlp(block.post_attention_layernorm(x))
    return model.lm_head(decoder.norm(x))[:, 0]


@torch.no_grad()
def even_rows(model: Transformer, wanted: int) -> int | None:
    """The smallest table of at least `wanted` rows in which a step gives each row the same bits; None where this machine has none.

    Tried by doing: the same text in all rows. Tables up to 8 rows larger are looked at.
    """
    config, device = model.config, model.model.turn.device
    shape = (1, config.num_key_value_heads, config.max_position_embeddings, config.head_dim)
    kind, chance = model.model.norm.weight.dtype, torch.Generator().manual_seed(0)
    past = [tuple(torch.randn(shape, generator=chance).to(device, kind) for _ in range(2)) for _ in model.model.layers]
    for rows in range(wanted, wanted + 9):
        cache = [tuple(part.repeat(rows, 1, 1, 1) for part in layer) for layer in past]
        token, position = torch.full((2, rows), min(7, config.vocab_size - 1), device=device).unbind()
        logits = decode_step(model, token, position.clamp(max=config.max_position_embeddings - 1), cache)
        if torch.equal(logits, logits[:1].expand_as(logits)):
            return rows
    return None


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions, in the order of dimensions that `kernels.rotated_projection` leaves in a cache. x: (rows, heads, head)."""
    return torch.view_as_real(torch.complex(*x.float().chunk(2, -1)) * turn).flatten(-2).to(x.dtype)


def draw(logits: Tensor, choices: Sequence[Sampling | None], luck: Sequence[float]) -> list[int]:
    """The next token of each row. logits: (rows, vocabulary); luck: a number in [0, 1) a row; None: nobody is in this row.

    Inverse of the cumulative distribution: the first token up to which the probabilities add up to more than the row's number.
    −1 where the logits are not finite.
    """
    logits = logits.float()
    best = logits.argmax(-1)
    temperature = torch.tensor([choice.temperature if choice and not choice.greedy else 1.0 for choice in choices])
    scores = logits / temperature[:, None]
    for row, choice in enumerate(choices):
        if choice is None or choice.greedy:
            continue
        if choice.top_k is not None:
            scores[row] = next_token_probabilities(scores[row : row + 1], 1.0, choice.top_k).log()[0]
        if choice.top_p < 1:
            scores[row] = keep_top_p(scores[row : row + 1], choice.top_p)[0]
    reached = scores.double().softmax(-1).cumsum(-1)  # (rows, vocabulary), up to 1
    total = reached[:, -1:]
    drawn = torch.searchsorted(reached, torch.tensor(luck, dtype=torch.float64)[:, None] * total, right=True)[:, 0]
    greedy = torch.tensor([choice is None or choice.greedy for choice in choices])
    tokens = torch.where(greedy, best, drawn.clamp(max=logits.shape[-1] - 1))
    return torch.where(total[:, 0].isfinite(), tokens, -1).tolist()
