"""Codes and scales: what rounding costs, what packing keeps, and equality with the libraries that write the same formats."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workshop_lib import WorkshopError
from workshop_lib.exercises import normal
from workshop_lib.quantization import (
    absmax_int8,
    dequantize_groups,
    nf4_dequantize,
    nf4_levels,
    nf4_quantize,
    pack_bits,
    pack_int4,
    quantize_groups,
    unpack_bits,
    unpack_int4,
    zero_point_int8,
)

# --- integers with a scale -------------------------------------------------------------------------------------------------


def test_absmax_reaches_127_in_every_row_and_is_at_most_half_a_scale_off():
    weight = normal(8, 32)
    codes, scale = absmax_int8(weight)
    assert codes.dtype == torch.int8 and scale.shape == (8, 1)
    assert (codes.abs().amax(dim=1) == 127).all()
    assert ((codes * scale - weight).abs() <= scale / 2 * 1.0001).all()


def test_zeros_stay_zeros():
    zeros = torch.zeros(2, 64)
    codes, scale = absmax_int8(zeros)
    assert not codes.any() and (scale == 1).all()
    codes, scales = quantize_groups(zeros)
    assert not codes.any() and (scales == 1).all()
    assert not nf4_dequantize(*nf4_quantize(zeros)).any()
    codes, scale, zero = zero_point_int8(zeros)
    assert (scale, zero) == (1.0, 0) and not codes.any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
def test_zero_point_keeps_zero_exact_and_is_at_most_one_scale_off(values):
    x = torch.tensor(values)
    codes, scale, zero = zero_point_int8(x)
    assert codes.dtype == torch.uint8 and 0 <= zero <= 255
    assert ((codes.float() - zero) * scale - x).abs().max() <= scale * 1.001
    assert (codes[x == 0] == zero).all()


def test_a_zero_point_uses_all_levels_where_absmax_uses_half():
    x = normal(1, 512).relu()
    codes, scale, zero = zero_point_int8(x)
    absmax, s = absmax_int8(x)
    assert zero == 0 and codes.max() == 255
    assert ((codes * scale - x) ** 2).mean() < 0.4 * ((absmax * s - x) ** 2).mean()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [8, 32, 64])
def test_every_group_has_its_scale_and_uses_its_levels(bits, group):
    weight = normal(16, 64) * torch.linspace(0.1, 5, 64)
    codes, scales = quantize_groups(weight, bits, group)
    assert codes.shape == weight.shape and codes.dtype == torch.int8 and scales.shape == (16, 64 // group)
    assert codes.min() == -(2 ** (bits - 1)) and codes.max() == 2 ** (bits - 1) - 1
    off = (dequantize_groups(codes, scales) - weight).abs().unflatten(1, (-1, group))
    assert (off <= scales.unsqueeze(-1) / 2 * 1.0001).all()


def test_more_bits_and_smaller_groups_are_closer():
    weight = normal(16, 64) * torch.linspace(0.1, 5, 64)

    def error(bits, group):
        return (dequantize_groups(*quantize_groups(weight, bits, group)) - weight).square().mean()

    assert error(2, 64) > error(3, 64) > error(4, 64) > error(8, 64)
    assert error(4, 64) > error(4, 32) > error(4, 8)


@pytest.mark.parametrize("bits, group, words", [(1, 64, "비트 수는 2부터 8"), (9, 64, "비트 수"), (4, 48, "너비 64을"), (4, 0, "0개씩")])
def test_what_does_not_fit_is_refused(bits, group, words):
    with pytest.raises(WorkshopError, match=words):
        quantize_groups(torch.ones(2, 64), bits, group)


# --- several values a byte -----------------------------------------------------------------------------------------------------


def test_the_first_value_of_a_pair_lies_in_the_low_four_bits():
    assert pack_int4(torch.tensor([[1, 2, -1, -8]], dtype=torch.int8)).tolist() == [[0x21, 0x8F]]
    assert unpack_int4(torch.tensor([0x21, 0x8F], dtype=torch.uint8)).tolist() == [1, 2, -1, -8]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8).flatmap(lambda bits: st.tuples(
    st.just(bits), st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1, max_size=12))))
def test_what_is_packed_comes_back_in_as_many_bytes_as_the_bits_need(case):
    bits, values = case
    codes = torch.tensor(values * 16, dtype=torch.int8).view(2, -1)  # two rows, a multiple of 8 values each
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8 and packed.numel() * 8 == codes.numel() * bits
    assert torch.equal(unpack_bits(packed, bits), codes)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_int4_survives_packing_and_every_byte_is_some_pair(values):
    codes = torch.tensor(values * 2, dtype=torch.int8)
    assert torch.equal(unpack_int4(pack_int4(codes)), codes)
    every = torch.arange(256).to(torch.uint8)
    assert torch.equal(pack_int4(unpack_int4(every)), every)


def test_values_that_do_not_fill_bytes_are_refused():
    with pytest.raises(WorkshopError, match="4비트 값 3개"):
        pack_int4(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(WorkshopError, match="3비트 값 7개"):
        pack_bits(torch.zeros(7, dtype=torch.int8), 3)


# --- the libraries' formats -------------------------------------------------------------------------------------------------------


def test_nf4_levels_are_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.get_4bit_type("nf4", device="cpu")
    assert torch.allclose(nf4_levels(), theirs, atol=3e-7)  # they were computed in float32, ours in float64


@pytest.mark.parametrize("shape", [(128,), (64, 128), (384, 128), (128, 352)])
def test_nf4_has_bitsandbytes_codes_and_weights(shape):
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal(*shape, seed=3)
    packed, absmax = nf4_quantize(weight)
    # A width that is no multiple of the block (352): their CPU kernel needs the weight laid flat.
    theirs, state = functional.quantize_4bit(weight.flatten(), blocksize=64, quant_type="nf4")
    high_first = torch.stack((theirs.flatten() >> 4, theirs.flatten() & 15), dim=1).flatten()
    assert torch.equal(unpack_int4(packed) & 15, high_first.view(torch.int8))
    assert torch.equal(absmax, state.absmax)
    assert torch.allclose(nf4_dequantize(packed, absmax), functional.dequantize_4bit(theirs, state), atol=2e-6)


def test_absmax_int8_is_bitsandbytes_vectorwise_int8():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = normal(64, 128, seed=4)
    codes, scale = absmax_int8(weight)
    theirs, absmax, _ = functional.int8_vectorwise_quant(weight)
    assert torch.equal(codes, theirs) and torch.allclose(scale[:, 0] * 127, absmax, rtol=1e-6)


def test_eight_bits_with_one_group_a_row_is_torchaos_int8():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("torchao.quantization")
    weight = normal(64, 128, seed=5)
    model = torch.nn.Sequential(torch.nn.Linear(128, 64, bias=False))
    model[0].weight.data.copy_(weight)
    library.quantize_(model, library.Int8WeightOnlyConfig())
    codes, scales = quantize_groups(weight, 8, 128)
    theirs = model[0].weight
    assert torch.allclose(scales, theirs.scale, rtol=1e-6)
    tie = (weight / scales).abs() > 127.4999  # the largest of a row lies halfway between two levels: either is as near
    assert torch.equal(codes[~tie], theirs.qdata[~tie]) and tie.sum() <= 64
    assert torch.allclose(dequantize_groups(codes, scales)[~tie], theirs.dequantize()[~tie], atol=1e-6)
