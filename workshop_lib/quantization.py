"""Weights as small integers, from scratch: absmax and zero-point INT8, group-wise INT4/3/2, NF4, several values a byte.

A weight is stored as a code and a scale that it shares with its neighbours; weight ≈ code · scale. Everything here is one
rounding: which neighbours share the scale, and where the levels lie, is all that the formats differ in. `calibration` chooses
the codes better than by rounding each weight to its nearest level (GPTQ, AWQ).

Notable choices
- The functions are what the exercises ask for; `QuantizedLinear` is the functions with their tensors kept.
- Codes are stored as integers and packed, in memory and on disk: a 4-bit layer takes half a byte a weight and 16 bits a group.
- INT8 is bitsandbytes' vector-wise format and NF4 is its NF4: the same scales, the same codes (tests/test_quantization.py).
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib import WorkshopError

# --- integers with a scale ------------------------------------------------------------------------------------------------


def absmax_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as integers −127…127 and one scale, its largest magnitude / 127 (Dettmers et al. 2022, section 2.1).

    weight: (out, in). Returns codes int8 (out, in) and scale (out, 1): weight ≈ codes · scale, at most half a scale off.
    A row of zeros has scale 1.
    """
    largest = weight.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale


def zero_point_int8(x: Tensor) -> tuple[Tensor, float, int]:
    """A whole tensor as 0…255 between its least and greatest value: x ≈ (codes − zero point) · scale (Jacob et al. 2018, eq. 1).

    For values that lie to one side (after a ReLU), where absmax would leave half its levels unused. Zero is always a level, so that
    padding stays exactly zero. Returns codes uint8 of x's shape, the scale, and the zero point 0…255.
    """
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    return (x / scale).round().add(zero).clamp(0, 255).to(torch.uint8), scale, zero


def quantize_groups(weight: Tensor, bits: int = 4, group: int = 64) -> tuple[Tensor, Tensor]:
    """Each run of `group` weights of a row as integers −2^(b−1) … 2^(b−1) − 1 with a scale of its own.

    The scale is the group's largest magnitude / (2^(b−1) − ½): the 2^b levels then reach as far down as up, and the largest weight
    is, like every other, at most half a scale off. weight: (out, in); group: a divisor of `in`, or `in` itself for one scale a row.
    Returns codes int8 (out, in) and scales (out, in / group). Raises WorkshopError for a group that does not fit, or bits outside 2…8.
    """
    scales = group_scales(_groups(weight, bits, group), bits)
    return nearest_codes(weight, scales, bits), scales


def dequantize_groups(codes: Tensor, scales: Tensor) -> Tensor:
    """The weights that the codes stand for: codes (out, in), scales (out, groups) to (out, in) in the scales' type."""
    return (codes.unflatten(1, (scales.shape[1], -1)) * scales.unsqueeze(-1)).flatten(1)


def nearest_codes(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The nearest code for every weight where the scales are given: weight (out, in), scales (out, groups) to int8 (out, in)."""
    levels = weight.unflatten(1, (scales.shape[1], -1)) / scales.unsqueeze(-1)
    return levels.round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).flatten(1).to(torch.int8)


def group_scales(blocks: Tensor, bits: int) -> Tensor:
    """The scale of every run of weights in `blocks` (..., group): largest magnitude / (2^(b−1) − ½), and 1 for a run of zeros."""
    largest = blocks.abs().amax(dim=-1)
    return torch.where(largest > 0, largest / (2 ** (bits - 1) - 0.5), torch.ones_like(largest))


def _groups(weight: Tensor, bits: int, group: int) -> Tensor:
    if not 2 <= bits <= 8:
        raise WorkshopError(f"비트 수는 2부터 8까지다. 받은 값: {bits}")
    if group < 1 or weight.shape[1] % group:
        raise WorkshopError(f"가중치의 입력 너비 {weight.shape[1]}을(를) {group}개씩 묶을 수 없다. 너비의 약수를 고른다.")
    return weight.unflatten(1, (-1, group))


# --- several values a byte ---------------------------------------------------------------------------------------------------


def pack_int4(codes: Tensor) -> Tensor:
    """Two values a byte: codes int8 (..., n) of −8…7 to uint8 (..., n / 2), the first of each pair in the low four bits.

    A negative value keeps the low half of its two's complement: −1 is 1111. Raises WorkshopError for an odd n.
    """
    if codes.shape[-1] % 2:
        raise WorkshopError(f"4비트 값 {codes.shape[-1]}개는 둘씩 한 바이트에 담을 수 없다. 개수를 짝수로 맞춘다.")
    low, high = codes[..., 0::2] & 15, codes[..., 1::2] & 15
    return (low | high << 4).view(torch.uint8)


def unpack_int4(packed: Tensor) -> Tensor:
    """What `pack_int4` has packed: uint8 (..., n / 2) to int8 (..., n)."""
    signed = packed.view(torch.int8)
    low, high = signed << 4 >> 4, signed >> 4  # a shift to the right copies the sign bit
    return torch.stack((low, high), dim=-1).flatten(-2)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Values of any width as one row of bits, lowest first: codes int8 (..., n) to uint8 (..., n · bits / 8).

    With 4 bits it is `pack_int4`. Raises WorkshopError when the bits do not fill whole bytes.
    """
    if codes.shape[-1] * bits % 8:
        raise WorkshopError(f"{bits}비트 값 {codes.shape[-1]}개는 바이트를 채우지 못한다. 개수를 8의 배수로 맞춘다.")
    if bits == 8:
        return codes.view(torch.uint8)
    if bits == 4:
        return pack_int4(codes)
    stream = (codes.unsqueeze(-1) >> torch.arange(bits, dtype=torch.int8, device=codes.device) & 1).flatten(-2)
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (stream.unflatten(-1, (-1, 8)).to(torch.uint8) << places).sum(dim=-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """What `pack_bits` has packed: uint8 (..., n · bits / 8) to int8 (..., n)."""
    if bits == 8:
        return packed.view(torch.int8)
    if bits == 4:
        return unpack_int4(packed)
    stream = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1).flatten(-2)
    values = stream.unflatten(-1, (-1, bits)).to(torch.int8)
    places = torch.arange(bits, dtype=torch.int8, device=packed.device)
    return (values << places).sum(dim=-1, dtype=torch.int8) << 8 - bits >> 8 - bits


# --- NF4 ----------------------------------------------------------------------------------------------------------------------


@cache
def nf4_levels() -> Tensor:
    """The 16 values of NF4, −1 … 1: quantiles of a normal distribution, as weights are about normal (Dettmers et al. 2023, appendix E).

    Eight quantiles above zero, seven below, and zero itself; the outermost lie at 1 − (1/30 + 1/32) / 2. float32 (16,).
    """
    outermost, normal = 1 - (1 / 30 + 1 / 32) / 2, NormalDist()
    above = [normal.inv_cdf(p) for p in torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1].tolist()]
    below = [-normal.inv_cdf(p) for p in torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1].tolist()]
    return torch.tensor(sorted([*below, 0.0, *above]), dtype=torch.float64).div(max(above)).float()


@cache
def nf4_pairs() -> Tensor:
    """The two values that a packed byte stands for: float32 (256, 2). One look-up a byte, not two."""
    return nf4_levels()[(unpack_int4(torch.arange(256).to(torch.uint8).unsqueeze(1)) & 15).long()]


def nf4_quantize(weight: Tensor, block: int = 64) -> tuple[Tensor, Tensor]:
    """The nearest of NF4's levels for each weight, relative to the largest magnitude of its block.

    Blocks run over the weights laid end to end, as bitsandbytes' do. weight: any shape with a multiple of `block` values.
    Returns packed uint8 (values / 2,), the first of a pair in the low four bits, and absmax (values / block,).
    """
    if weight.numel() % block:
        raise WorkshopError(f"가중치 {weight.numel()}개를 {block}개씩 묶을 수 없다. 묶음의 크기를 약수로 고른다.")
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    relative = blocks / torch.where(absmax > 0, absmax, torch.ones_like(absmax)).unsqueeze(1)
    levels = nf4_levels().to(weight.device)
    codes = torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2)  # halfway between two levels begins the next
    return pack_int4(codes.flatten().to(torch.int8)), absmax


def nf4_dequantize(packed: Tensor, absmax: Tensor) -> Tensor:
    """What `nf4_quantize` has packed: (values,) in absmax's type."""
    values = F.embedding(packed.int(), nf4_pairs().to(absmax))
    return (values.view(len(absmax), -1) * absmax.unsqueeze(1)).flatten()
