"""LoRA and DoRA from scratch against PEFT on the same weights, and the algebra they rest on."""

import pytest
import torch
from torch import nn

from workshop_lib import WorkshopError
from workshop_lib.lora import DoRALinear, LoRALinear, add_lora, dora_weight, inverse_haar, lora_forward, lora_parameters, merge_lora


def tensors(out=12, columns=8, rank=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((out, columns), (rank, columns), (out, rank))]


def test_arithmetic():
    assert lora_parameters([(128, 128)] * 4 + [(384, 128)] * 2, 8) == 8 * (4 * 256 + 2 * 512)
    assert lora_parameters([], 8) == 0


def test_forward_is_the_merged_weight():
    weight, A, B = tensors()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    before = weight.clone()
    torch.testing.assert_close(lora_forward(x, weight, A, B, 16.0), x @ merge_lora(weight, A, B, 16.0).T)
    assert torch.equal(weight, before)


def test_dora_has_the_lengths_asked_for_and_loras_direction():
    weight, A, B = tensors()
    magnitude = torch.rand(12, dtype=torch.float64) + 0.5
    result = dora_weight(weight, A, B, 4.0, magnitude)
    torch.testing.assert_close(result.norm(dim=1), magnitude)
    turned = merge_lora(weight, A, B, 4.0)
    torch.testing.assert_close(result / magnitude[:, None], turned / turned.norm(dim=1, keepdim=True))
    torch.testing.assert_close(dora_weight(weight, A, 0 * B, 4.0, weight.norm(dim=1)), weight)  # the start changes nothing


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_equals_peft(dora, bias):
    """Outputs, gradients of every trainable tensor and of the input, and the merged weight."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12, bias=bias))
    theirs = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, target_modules=["0"], use_dora=dora))
    other = theirs.base_model.model[0]
    base = nn.Linear(8, 12, bias=bias)
    base.load_state_dict(other.base_layer.state_dict())
    ours = (DoRALinear if dora else LoRALinear)(base, rank=3, alpha=7)
    generator = torch.Generator().manual_seed(1)
    ours.B.data.normal_(generator=generator)
    other.lora_A["default"].weight.data.copy_(ours.A.data)
    other.lora_B["default"].weight.data.copy_(ours.B.data)
    pairs = [(ours.A, other.lora_A["default"].weight), (ours.B, other.lora_B["default"].weight)]
    if dora:
        ours.magnitude.data.mul_(1.3)
        other.lora_magnitude_vector["default"].weight.data.copy_(ours.magnitude.data)
        pairs.append((ours.magnitude, other.lora_magnitude_vector["default"].weight))
    x = torch.randn(2, 5, 8, generator=generator)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(a), theirs(b)
    torch.testing.assert_close(y, z, atol=1e-5, rtol=0)
    for out in (y, z):
        out.square().sum().backward()
    for mine, their in [*pairs, (a, b)]:
        torch.testing.assert_close(mine.grad, their.grad, atol=1e-4, rtol=1e-5)
    assert base.weight.grad is None
    ours.merge()
    torch.testing.assert_close(ours.base.weight, theirs.merge_and_unload()[0].weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_merge_gives_the_same_outputs_and_unmerge_the_old_bits(kind):
    torch.manual_seed(0)
    layer = kind(nn.Linear(6, 4), rank=2)
    layer.B.data.normal_()
    x, before = torch.randn(3, 6), layer.base.weight.detach().clone()
    unmerged = layer(x)
    layer.merge()
    layer.merge()  # twice is once
    assert not torch.equal(layer.base.weight, before)
    torch.testing.assert_close(layer(x), unmerged, atol=1e-5, rtol=0)
    layer.unmerge()
    layer.unmerge()
    assert torch.equal(layer.base.weight, before)
    torch.testing.assert_close(layer(x), unmerged)


@pytest.mark.parametrize("dora", [False, True])
def test_a_whole_model_starts_as_it_was_and_only_adapters_learn(dora):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    layers = add_lora(model, ("q_proj", "down_proj"), rank=4, dora=dora, seed=3)
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(layers) == 4 and all(name.rsplit(".", 1)[1] in ("A", "B", "magnitude") for name in trained)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shapes = [layer.base.weight.shape for layer in layers.values()]
    assert count == lora_parameters(shapes, 4) + dora * sum(rows for rows, _ in shapes)
    other = add_lora(LlamaForCausalLM(config), ("q_proj", "down_proj"), rank=4, dora=dora, seed=3)
    assert all(torch.equal(layers[name].A, other[name].A) for name in layers)  # the seed decides the start


def test_the_start_is_pefts():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    theirs = get_peft_model(nn.Sequential(nn.Linear(400, 30)), LoraConfig(r=16, target_modules=["0"])).base_model.model[0]
    ours = LoRALinear(nn.Linear(400, 30), rank=16, generator=torch.Generator().manual_seed(0))
    for start in (ours.A.detach(), theirs.lora_A["default"].weight.detach()):
        assert start.abs().max() == pytest.approx(1 / 20, rel=0.01) and start.std() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)
    assert not ours.B.any()


def test_bad_calls_are_told():
    with pytest.raises(WorkshopError, match="q_porj.*선형층의 이름: 0, 1"):
        add_lora(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["q_porj"])
    with pytest.raises(WorkshopError, match="rank"):
        LoRALinear(nn.Linear(2, 2), rank=0)
    with pytest.raises(WorkshopError, match=r"짝수.*\(3, 4\)"):
        inverse_haar(torch.zeros(3, 4))


def test_inverse_haar_is_orthogonal_and_pefts():
    from peft import WaveFTConfig, get_peft_model

    coefficients = torch.randn(6, 8, dtype=torch.float64)
    matrix = inverse_haar(coefficients)
    torch.testing.assert_close(matrix.square().sum(), coefficients.square().sum())
    one = torch.zeros(4, 4)
    one[0, 0] = 1.0
    assert inverse_haar(one).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]  # an average is a flat block
    model = get_peft_model(nn.Sequential(nn.Linear(8, 6)), WaveFTConfig(n_frequency=10, scaling=2.5, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.waveft_spectrum["default"].data.normal_()
    dense = torch.zeros(6, 8)
    dense[tuple(layer.waveft_indices["default"])] = layer.waveft_spectrum["default"].data
    torch.testing.assert_close(2.5 * inverse_haar(dense), layer.get_delta_weight("default"), atol=1e-5, rtol=0)
