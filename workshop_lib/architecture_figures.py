"""What a trained model of week 4 does with each token of a sentence: where it looks, what it keeps, and a picture of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError, display
from workshop_lib.architectures import attention
from workshop_lib.architectures.language_model import LanguageModel
from workshop_lib.architectures.mamba import Mamba
from workshop_lib.architectures.transformer import Transformer


def attention_maps(model: Transformer, input_ids: Tensor) -> Tensor:
    """How much each token (row) takes from each token before it (column). input_ids: (1, time) → (layers, heads, time, time).

    The fast model never holds these weights; they are computed anew from what its layers read, in the plain steps of `attention`.
    """
    blocks, time = model.model.layers, input_ids.shape[1]
    inputs = _outputs(model, [block.input_layernorm for block in blocks], input_ids)
    positions, mask, theta = torch.arange(time), attention.causal_mask(time), model.config.rope_theta
    maps = []
    with torch.no_grad():
        for layer, x in zip((block.self_attn for block in blocks), inputs):
            q, k = attention.split_heads(layer.q_proj(x), layer.heads), attention.split_heads(layer.k_proj(x), layer.kv_heads)
            q, k = attention.rotate(q, positions, theta), attention.rotate(k, positions, theta)
            k = k.repeat_interleave(layer.heads // layer.kv_heads, dim=1)  # query heads that share a key head
            maps.append(attention.attention_weights(q, k, mask)[0])
    return torch.stack(maps)


def kept(model: Mamba, input_ids: Tensor) -> Tensor:
    """The share of its state that each layer carries over at each token: the mean of exp(dt · A) over channels and state.

    input_ids: (1, time) → (layers, time). Near 1 the token is passed over; near 0 it wipes what was there.
    """
    mixers = [block.mixer for block in model.stack.layers]
    steps = _outputs(model, [mixer.dt_proj for mixer in mixers], input_ids)
    with torch.no_grad():
        shares = [torch.exp(F.softplus(dt[0]).unsqueeze(-1) * -m.A_log.exp()).mean((1, 2)) for dt, m in zip(steps, mixers)]
    return torch.stack(shares)


def show_map(weights: Tensor, pieces: Sequence[str], title: str = ""):
    """One head's attention as a heat map: rows look, columns are looked at. weights: (time, time). Returns a Figure."""
    if tuple(weights.shape) != (len(pieces), len(pieces)):
        raise WorkshopError(f"가중치의 모양이 {tuple(weights.shape)}인데 토큰은 {len(pieces)}개이다. 같은 문장의 것인지 확인한다.")
    plt = display.pyplot()
    side = max(3.0, 0.3 * len(pieces) + 1.2)
    figure, axes = plt.subplots(figsize=(side, side))
    axes.imshow(weights.detach().numpy(), cmap="Blues", vmin=0)
    labels = [piece.replace(" ", "␣").replace("\n", "⏎") for piece in pieces]
    axes.set_xticks(range(len(pieces)), labels, rotation=90)
    axes.set_yticks(range(len(pieces)), labels)
    axes.set(xlabel="보이는 토큰", ylabel="보는 토큰", title=title)
    axes.grid(False)
    figure.tight_layout()
    plt.close(figure)
    return figure


def _outputs(model: LanguageModel, modules: Iterable[nn.Module], input_ids: Tensor) -> list[Tensor]:
    """What each of the modules gives while the model reads `input_ids`, in the order of the call."""
    found: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda module, x, y: found.append(y)) for module in modules]
    try:
        with torch.no_grad():
            model(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found
