"""LoRA and DoRA from scratch: a frozen linear layer that learns a small correction, and the wavelet picture of WaveFT.

LoRA (Hu et al. 2021, arXiv 2106.09685): W' = W + (alpha / r) B A with A (r, in), B (out, r); only A and B learn.
DoRA (Liu et al. 2024, arXiv 2402.09353, eq. 5): W' = m · (W + ΔW) / ‖W + ΔW‖, a length m and a direction for every row.

Notable choices
- The layers give what PEFT's give on the same weights, gradients included: one scaling alpha / r, B starts at zero, and
  the norm of DoRA takes no gradient (section 4.3 of the paper). Rows of a PyTorch weight are the paper's columns.
- The functions work on plain tensors; the layers are the functions with their tensors kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError


def lora_parameters(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """How many numbers LoRA trains in layers of these shapes (out, in): rank · (out + in) each."""
    return sum(rank * (rows + columns) for rows, columns in shapes)


def lora_forward(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """x W^T + (alpha / r) (x A^T) B^T, without ever forming the matrix B A.

    x: (..., in), weight: (out, in), A: (r, in), B: (out, r). Returns (..., out).
    """
    return x @ weight.T + alpha / A.shape[0] * (x @ A.T @ B.T)


def merge_lora(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """W + (alpha / r) B A: one matrix of the old shape, so inference costs what it did before. `weight` stays as it is."""
    return weight + alpha / A.shape[0] * (B @ A)


def dora_weight(weight: Tensor, A: Tensor, B: Tensor, alpha: float, magnitude: Tensor) -> Tensor:
    """The merged weight's rows turned by LoRA and set to the lengths `magnitude`: (out, in).

    magnitude: (out,). The norm that it is divided by counts as a constant for the gradient, as in the paper's section 4.3.
    """
    turned = merge_lora(weight, A, B, alpha)
    norm = turned.norm(dim=1, keepdim=True).detach()
    return magnitude[:, None] * turned / norm


def inverse_haar(coefficients: Tensor) -> Tensor:
    """One level of the inverse 2-D Haar transform: (rows, columns) of coefficients to a matrix of the same shape.

    The quarters hold, from the top left by rows, averages, and differences across rows, across columns, and across both; four
    coefficients make a block of 2 × 2. The transform is orthogonal: the sum of squares stays. WaveFT (arXiv 2505.12532) learns
    a few such coefficients and adds the matrix that they make to W. Raises WorkshopError for an odd number of rows or columns.
    """
    rows, columns = coefficients.shape
    if rows % 2 or columns % 2:
        raise WorkshopError(f"하르 변환은 행과 열의 수가 짝수여야 한다. 받은 모양: ({rows}, {columns})")
    top, bottom = coefficients.chunk(2, dim=0)
    (mean, across_rows), (across_columns, both) = top.chunk(2, dim=1), bottom.chunk(2, dim=1)
    matrix = torch.empty_like(coefficients)
    matrix[0::2, 0::2] = (mean + across_columns + across_rows + both) / 2
    matrix[0::2, 1::2] = (mean - across_columns + across_rows - both) / 2
    matrix[1::2, 0::2] = (mean + across_columns - across_rows - both) / 2
    matrix[1::2, 1::2] = (mean - across_columns - across_rows + both) / 2
    return matrix


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with a trainable low-rank correction that can be merged into its weight and taken out again.

    `base` is kept, not copied, and frozen. A has PEFT's start (Kaiming uniform, a = √5), B is zero: at first nothing changes.
    Raises WorkshopError for a rank that is no less than 1.
    """

    def __init__(self, base: nn.Linear, rank: int = 8, alpha: float = 16.0, generator: torch.Generator | None = None):
        super().__init__()
        if rank < 1:
            raise WorkshopError(f"rank는 1 이상이어야 한다. 받은 값: {rank}")
        self.base, self.alpha, self.merged = base.requires_grad_(False), alpha, False
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.A = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        bound = 1 / math.sqrt(base.in_features)  # what kaiming_uniform_(a=√5) comes to
        self.A.data.copy_((torch.rand(self.A.shape, generator=generator) * 2 - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) to (..., out)."""
        if self.merged:
            return self.base(x)
        y = lora_forward(x, self.base.weight, self.A, self.B, self.alpha)
        return y if self.base.bias is None else y + self.base.bias

    def weight(self) -> Tensor:
        """The weight that the layer acts with: (out, in)."""
        return self.base.weight if self.merged else merge_lora(self.base.weight, self.A, self.B, self.alpha)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the correction into the base weight. The old weight is kept beside it, so that unmerge is exact."""
        if not self.merged:
            self._original = self.base.weight.data
            self.base.weight.data, self.merged = self.weight().clone(), True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base weight back as it was, bit for bit."""
        if self.merged:
            self.base.weight.data, self.merged = self._original, False
            del self._original


class DoRALinear(LoRALinear):
    """LoRA for the direction of every row of the weight, and a trainable length for it, which starts at the row's own."""

    def __init__(self, base: nn.Linear, rank: int = 8, alpha: float = 16.0, generator: torch.Generator | None = None):
        super().__init__(base, rank, alpha, generator)
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) to (..., out)."""
        return F.linear(x, self.weight(), self.base.bias)

    def weight(self) -> Tensor:
        """The weight that the layer acts with: (out, in)."""
        if self.merged:
            return self.base.weight
        return dora_weight(self.base.weight, self.A, self.B, self.alpha, self.magnitude)


def add_lora(
    model: nn.Module, targets: Iterable[str], rank: int = 8, alpha: float = 16.0, dora: bool = False, seed: int = 0,
) -> dict[str, LoRALinear]:
    """Freeze `model` and put LoRA (or DoRA) over each `nn.Linear` whose own name is in `targets` ("q_proj").

    Changes the model in place and returns the new layers by their full names. Raises WorkshopError when a target fits no layer.
    """
    targets, kind = tuple(targets), DoRALinear if dora else LoRALinear
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.split(".")[-1] in targets}
    if missing := set(targets) - {name.split(".")[-1] for name in found}:
        known = sorted({name.split(".")[-1] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)})
        raise WorkshopError(f"모델에 {', '.join(sorted(missing))} 층이 없다. 선형층의 이름: {', '.join(known)}")
    layers = {}
    for name, layer in found.items():
        parent, _, own = name.rpartition(".")
        layers[name] = kind(layer, rank, alpha, generator)
        setattr(model.get_submodule(parent), own, layers[name])
    return layers
