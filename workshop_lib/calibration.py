"""Better codes from a little text: GPTQ and AWQ, each as short as its idea.

Rounding every weight to its nearest level makes the weights as right as can be. What should be right is what the layer puts out,
W x, on the inputs that it really gets. Both methods look at those inputs on a few windows of text.

- GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column after another and shifts the columns that are still free so that
  they undo the error made so far.
- AWQ (Lin et al. 2023, arXiv 2306.00978) multiplies the columns that meet large inputs before rounding and divides afterwards:
  their error shrinks, at the cost of the others.

Notable choices
- All that is kept of a layer's inputs is XᵀX and the mean |x| of each input: enough for either method, and for the exact error.
- One pass through the unquantised model collects for all layers. The papers' code goes layer by layer and lets the later ones see
  what the earlier ones have become; that takes a pass a layer and is left out.
- AWQ's two halves are both here: scales for the columns (`awq_scales`) and a narrower range for each group (`awq_clip`). On the course's
  models the scales alone gain nothing over rounding; the range does (tests/test_calibration.py shows where the scales do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Attention
from workshop_lib.quantization import dequantize_groups, group_scales, nearest_codes, quantize_groups


@dataclass
class Statistics:
    """What a linear layer's inputs X (tokens, in) were like: `hessian` XᵀX (in, in), `magnitude` Σ|x| (in,), how many tokens."""

    hessian: Tensor
    magnitude: Tensor
    tokens: int = 0

    @classmethod
    def empty(cls, width: int) -> Statistics:
        """Of no inputs yet, for a layer that reads `width`."""
        return cls(torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Count more inputs in. x: (..., in)."""
        x = x.detach().flatten(0, -2).float()
        self.hessian += (x.T @ x).double().cpu()
        self.magnitude += x.abs().sum(dim=0).double().cpu()
        self.tokens += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean |x| of each input: (in,)."""
        return self.magnitude / max(self.tokens, 1)


def linear_layers(model: nn.Module, skip: Iterable[str] = ("lm_head", "score")) -> dict[str, nn.Linear]:
    """The linear layers of the model's blocks by name; those whose own name is in `skip` (the output layer, a head) are left out."""
    skip = set(skip)
    return {name: layer for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in skip}  # fmt: skip


@torch.no_grad()
def collect(model: nn.Module, batches: Iterable[Tensor], layers: Iterable[str] | None = None) -> dict[str, Statistics]:
    """Run text through the model and keep what reaches each linear layer.

    batches: token ids, (batch, time) each, without padding. Works on this package's Transformer and on transformers' models.
    `layers`: only these. Raises WorkshopError when there is no text.
    """
    wanted = linear_layers(model)
    wanted = {name: wanted[name] for name in (wanted if layers is None else layers)}
    found = {name: Statistics.empty(layer.in_features) for name, layer in wanted.items()}
    hooks = [layer.register_forward_pre_hook(_recorder(found[name])) for name, layer in wanted.items()]
    for name, module in model.named_modules():
        if isinstance(module, Attention):  # ours multiplies the three weights as one: their layers are never called
            shared = Statistics.empty(module.q_proj.in_features)
            found |= {f"{name}.{own}": shared for own in ("q_proj", "k_proj", "v_proj") if f"{name}.{own}" in found}
            hooks.append(module.register_forward_pre_hook(_recorder(shared)))
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for ids in batches:
            model(ids.to(device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if not all(statistics.tokens for statistics in found.values()):
        raise WorkshopError("보정에 쓸 글이 없다. 토큰 창을 하나 이상 준다.")
    return found


def _recorder(statistics: Statistics) -> Callable:
    def record(module: nn.Module, inputs: tuple) -> None:
        statistics.add(inputs[0])

    return record


def output_error(weight: Tensor, other: Tensor, hessian: Tensor) -> float:
    """Σ ‖(W − W') x‖² over the inputs behind `hessian`, relative to Σ ‖W x‖². weight, other: (out, in)."""
    weight, other = weight.double(), other.double()
    off = weight - other
    return float(((off @ hessian) * off).sum() / ((weight @ hessian) * weight).sum().clamp(min=1e-30))


# --- GPTQ ---------------------------------------------------------------------------------------------------------------------


def gptq_column(weight: Tensor, inverse: Tensor, column: int, quantized: Tensor) -> Tensor:
    """One step of GPTQ: put the rounded column in, and spread its error over the columns to the right (algorithm 1 of the paper).

    weight: (out, in); inverse: (in, in), the upper Cholesky factor U of H⁻¹ = Uᵀ U; quantized: (out,), the values that the column
    gets. Returns a new weight: w_j − (w_c − q) / U_cc · U_cj for j ≥ c; columns to the left stay, and column c becomes q.
    """
    error = (weight[:, column] - quantized) / inverse[column, column]
    result = weight.clone()
    result[:, column:] -= error[:, None] * inverse[column, column:]
    return result


def gptq(weight: Tensor, hessian: Tensor, bits: int = 4, group: int = 64, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """Codes and scales in the format of `quantize_groups`, chosen so that the layer's output changes little.

    weight: (out, in); hessian: XᵀX (in, in). `damping`: a share of the mean diagonal added to it, so that it can be inverted.
    Returns codes int8 (out, in) and scales (out, in / group).
    """
    quantize_groups(weight[:1], bits, group)  # refuses what does not fit
    inverse = torch.linalg.cholesky(_inverse(hessian, damping), upper=True).to(weight)
    current, codes, scales = weight, [], []
    for column in range(weight.shape[1]):
        if column % group == 0:  # a group's scale is fixed when its first column is reached, from what the columns are by then
            scales.append(group_scales(current[:, column : column + group], bits))
        codes.append(nearest_codes(current[:, [column]], scales[-1][:, None], bits)[:, 0])
        current = gptq_column(current, inverse, column, codes[-1] * scales[-1])
    return torch.stack(codes, dim=1), torch.stack(scales, dim=1)


def _inverse(hessian: Tensor, damping: float) -> Tensor:
    diagonal = hessian.diagonal()
    # An input that was always zero says nothing about its weights: a one on the diagonal keeps it out of the others.
    extra = torch.where(diagonal == 0, torch.ones_like(diagonal), damping * diagonal.mean().expand_as(diagonal))
    damped = hessian.double() + torch.diag(extra.double())
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


# --- AWQ -----------------------------------------------------------------------------------------------------------------------


def awq_scales(
    weight: Tensor, activations: Tensor, hessian: Tensor, bits: int = 4, group: int = 64, steps: int = 20,
) -> Tensor:
    """What to multiply each input's column by before rounding: (in,). Section 3.2 of the paper, equations 4 and 5.

    activations: mean |x| of each input (in,). Candidates are activations^α for α = 0, 1/steps, … 1, scaled to √(max · min) = 1; the one
    with the smallest error of the layer's output, Σ ‖(W − W') x‖², is returned. α = 0 is plain rounding.
    """
    best, smallest = torch.ones_like(activations), float("inf")
    for step in range(steps + 1):
        candidate = activations.clamp(min=1e-8) ** (step / steps)
        candidate = candidate / (candidate.max() * candidate.min()).sqrt()
        error = output_error(weight, awq_weight(weight, candidate.to(weight), bits, group), hessian)
        if error < smallest:
            best, smallest = candidate, error
    return best.to(weight)


def awq_clip(weight: Tensor, hessian: Tensor, bits: int = 4, group: int = 64, steps: int = 10) -> tuple[Tensor, Tensor]:
    """Codes and scales in the format of `quantize_groups`, with each group's range cut where that makes its output better.

    A narrower range puts its levels closer together and clips the largest weights. For every group of every row the best of the full
    range and `steps` narrower ones, down to half, by Σ ((w − w') x)² over the group's own inputs.
    """
    full = group_scales(weight.unflatten(1, (-1, group)), bits)
    own = torch.stack([part[:, i * group : (i + 1) * group] for i, part in enumerate(hessian.to(weight).split(group))])  # (groups, g, g)
    best, smallest = full, torch.full_like(full, float("inf"))
    for step in range(steps + 1):
        scales = full * (1 - step / steps / 2)
        off = (weight - dequantize_groups(nearest_codes(weight, scales, bits), scales)).unflatten(1, (-1, group))
        error = torch.einsum("ogi,gij,ogj->og", off, own, off)
        best, smallest = torch.where(error < smallest, scales, best), torch.minimum(error, smallest)
    return nearest_codes(weight, best, bits), best


def awq_weight(weight: Tensor, scales: Tensor, bits: int, group: int) -> Tensor:
    """The weight after multiplying its columns by `scales` (in,), rounding, and dividing again: (out, in)."""
    return dequantize_groups(*quantize_groups(weight * scales, bits, group)) / scales
