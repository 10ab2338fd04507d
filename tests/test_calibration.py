"""GPTQ and AWQ: the error that counts is the layer's, on real inputs, and both make it smaller than rounding does."""

import pytest
import torch

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.calibration import awq_clip, awq_scales, awq_weight, collect, gptq, gptq_column, output_error
from workshop_lib.quantization import dequantize_groups, quantize_groups


def test_a_gptq_step_rounds_one_column_and_leaves_the_left_alone():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(4, 6, generator=generator), torch.randn(50, 6, generator=generator)
    inverse = torch.linalg.cholesky(torch.linalg.inv(x.T @ x), upper=True)
    kept = weight.clone()
    result = gptq_column(weight, inverse, 2, weight[:, 2].round())
    assert torch.equal(weight, kept)
    assert torch.equal(result[:, :2], weight[:, :2]) and torch.allclose(result[:, 2], weight[:, 2].round(), atol=1e-6)


def test_a_gptq_step_is_the_best_repair_that_the_later_columns_can_make():
    """With columns up to c fixed, least squares over the later ones gives the very weights of the step."""
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.randn(40, 5, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(x.T @ x), upper=True)
    current = weight
    for column in range(4):
        current = gptq_column(current, inverse, column, current[:, column].round())
        fixed, free = x[:, : column + 1], x[:, column + 1 :]
        missing = x @ weight.T - fixed @ current[:, : column + 1].T  # what the later columns have to make up for
        best = torch.linalg.lstsq(free, missing).solution.T
        assert torch.allclose(current[:, column + 1 :], best, atol=1e-9)


# --- whole layers -----------------------------------------------------------------------------------------------------------


def layer(seed=0, rows=48, width=128, tokens=600):
    """A weight, and inputs that hang together and differ in size, as a layer's do."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width) / 2
    x = torch.randn(tokens, width, generator=generator) @ mixing * torch.logspace(-1, 1, width)
    return weight, x, (x.T @ x).double()


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_both_methods_make_the_error_that_counts_smaller(bits):
    weight, x, hessian = layer()
    plain = dequantize_groups(*quantize_groups(weight, bits, 64))
    better = dequantize_groups(*gptq(weight, hessian, bits, 64))
    scales = awq_scales(weight, x.abs().mean(dim=0), hessian, bits, 64)
    errors = {name: output_error(weight, w, hessian) for name, w in
              {"round": plain, "gptq": better, "awq": awq_weight(weight, scales, bits, 64)}.items()}  # fmt: skip
    assert errors["gptq"] < 0.9 * errors["round"] and errors["awq"] < 0.9 * errors["round"]
    # The weights themselves come out no closer than by rounding: that is not what counts.
    assert (better - weight).norm() > (plain - weight).norm()


def test_output_error_is_the_error_of_the_output():
    weight, x, hessian = layer(2)
    other = weight.round()
    expected = ((x.double() @ (weight - other).double().T) ** 2).sum() / ((x.double() @ weight.double().T) ** 2).sum()
    assert output_error(weight, other, hessian) == pytest.approx(float(expected), rel=1e-6)
    assert output_error(weight, weight, hessian) == 0


@pytest.mark.parametrize("bits", [4, 2])
def test_clipping_makes_the_error_on_a_groups_own_inputs_smaller(bits):
    weight, x, hessian = layer(3)
    weight[:, 5] *= 8  # one large weight takes the whole range of its group
    codes, scales = awq_clip(weight, hessian, bits, 64)
    plain = quantize_groups(weight, bits, 64)
    assert (scales <= plain[1] * 1.0001).all() and codes.dtype == torch.int8
    for part in (slice(0, 64), slice(64, 128)):
        own = hessian[part, part]
        clipped, full = (output_error(weight[:, part], dequantize_groups(*form)[:, part], own) for form in ((codes, scales), plain))
        assert clipped < 0.8 * full


def test_gptq_with_inputs_that_have_nothing_in_common_is_rounding():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(4))
    codes, scales = gptq(weight, torch.eye(64, dtype=torch.float64), 4, 64)
    plain, same = quantize_groups(weight, 4, 64)
    assert torch.equal(scales, same) and (codes != plain).sum() <= 8  # the largest of a row lies between two levels


def test_gptq_survives_inputs_that_are_always_zero_or_always_the_same():
    weight, x, _ = layer(5)
    x[:, 3] = 0
    x[:, 7] = x[:, 8]
    codes, scales = gptq(weight, (x.T @ x).double(), 4, 64)
    assert torch.isfinite(scales).all() and (codes[:, 3] != 0).any()
    assert torch.isfinite(dequantize_groups(*gptq(weight, torch.zeros(128, 128, dtype=torch.float64), 4, 64))).all()


def test_awq_without_large_inputs_is_rounding():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(6))
    even = torch.ones(64)
    assert torch.allclose(awq_scales(weight, even, torch.eye(64, dtype=torch.float64)), even)


def test_what_is_collected_is_what_the_layers_read():
    model = Transformer(TransformerConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                          num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=12), seed=0)  # fmt: skip
    ids = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    found = collect(model, ids.split(1))
    block = model.model.layers[0]
    with torch.no_grad():
        x = block.input_layernorm(model.model.embed_tokens(ids)).flatten(0, 1)
    for name in ("q_proj", "k_proj", "v_proj"):
        one = found[f"model.layers.0.self_attn.{name}"]
        assert one.tokens == 36 and torch.allclose(one.hessian, (x.T @ x).double(), rtol=1e-4, atol=1e-6)
        assert torch.allclose(one.mean, x.abs().mean(dim=0).double(), rtol=1e-4)
    assert found["model.layers.0.mlp.down_proj"].hessian.shape == (24, 24)
    assert model.training and not any(module._forward_pre_hooks for module in model.modules())
    assert "lm_head" not in found and len(found) == 7
    with pytest.raises(WorkshopError, match="보정에 쓸 글이 없다"):
        collect(model, [])
