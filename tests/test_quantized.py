"""A model of packed codes: the same answers as its dequantised weights, the bytes that the arithmetic says, a folder that comes back."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig, generate
from workshop_lib.calibration import Statistics, awq_clip, collect, linear_layers, output_error
from workshop_lib.quantization import absmax_int8, unpack_bits
from workshop_lib.quantized import (
    METHODS,
    WEIGHTS,
    QuantizedLinear,
    integer_product,
    is_quantized,
    layer_bytes,
    load_quantized,
    quantize_model,
    quantize_weight,
    quantized_layers,
    save_quantized,
)

CONFIG = TransformerConfig(vocab_size=96, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2,
                           num_key_value_heads=1, max_position_embeddings=32, initializer_range=0.2)
WINDOWS = torch.randint(0, 96, (8, 32), generator=torch.Generator().manual_seed(0))
FORMS = [("absmax", 8, 0), ("round", 8, 64), ("round", 4, None), ("round", 4, 0), ("round", 4, 64), ("gptq", 3, 64), ("awq", 3, 64),
         ("round", 2, 64), ("nf4", 4, 64)]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return Transformer(CONFIG, seed=0).eval()


@pytest.fixture(scope="module")
def statistics(model):
    return collect(model, WINDOWS.split(4))


@pytest.fixture(scope="module")
def hf(model):
    from transformers import LlamaForCausalLM

    hf = LlamaForCausalLM(CONFIG.to_hf()).eval()
    hf.load_state_dict(model.state_dict())
    return hf


@pytest.mark.parametrize("method, bits, group", FORMS)
def test_a_quantised_model_answers_as_its_dequantised_weights_do(model, statistics, method, bits, group):
    small = quantize_model(model, method, bits, group, statistics)
    plain = Transformer(CONFIG).eval()
    plain.load_state_dict(model.state_dict())
    for name, layer in quantized_layers(small).items():
        plain.get_submodule(name).weight.data.copy_(layer.weight)
    assert quantized_layers(small).keys() == linear_layers(model).keys() and len(linear_layers(model)) == 14
    with torch.no_grad():
        assert torch.allclose(small(WINDOWS), plain(WINDOWS), atol=1e-3)
        assert not torch.allclose(small(WINDOWS), model(WINDOWS), atol=1e-4)
    prompt = WINDOWS[0, :5].tolist()
    assert generate(small, prompt, 12, seed=1) == generate(plain, prompt, 12, seed=1)  # the cache of a decoding step as well


def test_codes_stand_for_nearly_the_same_layer_and_calibrated_ones_for_a_nearer_one():
    generator = torch.Generator().manual_seed(3)
    weight, mixing = torch.randn(48, 128, generator=generator), torch.randn(24, 128, generator=generator) / 5
    x = torch.randn(600, 24, generator=generator) @ mixing + torch.randn(600, 128, generator=generator) / 2  # they hang together
    x = x * torch.logspace(-1, 1, 128)[torch.randperm(128, generator=generator)]  # and differ in size
    statistics = Statistics.empty(128)
    statistics.add(x)

    def error(*form):
        return output_error(weight, quantize_weight(weight, *form, statistics).weight(), statistics.hessian)

    for form in FORMS:
        assert error(*form) < {8: 1e-4, 4: 0.04, 3: 0.06, 2: 0.4}[form[1]]
    plain = error("round", 3, 64)
    assert error("gptq", 3, 64) < 0.8 * plain and error("awq", 3, 64) < 0.8 * plain

    codes = quantize_weight(weight, "awq", 3, 64, statistics)
    s = codes.inputs.float()
    assert s.std() > 0.1
    scaled = Statistics.empty(128)
    scaled.add(x / s)  # what a layer whose columns were multiplied by s would read
    wanted, scales = awq_clip(weight * s, scaled.hessian, 3, 64)
    assert (unpack_bits(codes.packed, 3) != wanted).sum() < 5 and torch.allclose(codes.scales.float(), scales, rtol=1e-3)


@pytest.mark.parametrize("method, bits, group", FORMS)
def test_bytes_are_what_the_arithmetic_says(model, statistics, method, bits, group):
    small = quantize_model(model, method, bits, group, statistics)
    weights = sum(layer.weight.numel() for layer in linear_layers(model).values())
    rows = sum(layer.out_features for layer in linear_layers(model).values())
    scales = {None: len(linear_layers(model)), 0: rows, 64: weights // 64}[group]
    inputs = sum(layer.in_features for layer in linear_layers(model).values()) if method == "awq" else 0
    assert layer_bytes(small) == (weights * bits // 8 + 2 * scales + 2 * inputs, 4 * weights)


def test_the_original_is_left_alone(model, statistics):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for method in METHODS:
        quantize_model(model, method, statistics=statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_transformers_llama_gives_the_same_codes_and_nearly_the_same_logits(model, hf, statistics):
    theirs = collect(hf, WINDOWS.split(4))
    assert theirs.keys() == statistics.keys()
    assert all(torch.allclose(theirs[name].hessian, statistics[name].hessian, rtol=1e-3, atol=1e-3) for name in theirs)
    for method in ("absmax", "round", "nf4"):
        ours, small = quantize_model(model, method), quantize_model(hf, method)
        with torch.no_grad():
            assert torch.allclose(ours(WINDOWS), small(WINDOWS).logits, atol=1e-3)


def test_a_classifier_keeps_its_head_and_biases_stay(model):
    layer = torch.nn.Linear(128, 8)
    both = torch.nn.ModuleDict({"q_proj": layer, "score": torch.nn.Linear(128, 2)})
    small = quantize_model(both, "absmax")
    assert isinstance(small["q_proj"], QuantizedLinear) and isinstance(small["score"], torch.nn.Linear)
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(small["q_proj"](x), layer(x), atol=0.02)


def test_integer_products_are_close_to_the_float_ones(model):
    x = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    exact, got = x @ weight.T, integer_product(x, *absmax_int8(weight))
    assert got.shape == exact.shape and (got - exact).norm() < 0.02 * exact.norm()
    small = quantize_model(model, "absmax", integer=True)
    with torch.no_grad():
        whole = small(WINDOWS)
        assert (whole - model(WINDOWS)).norm() < 0.1 * whole.norm()
    with pytest.raises(WorkshopError, match="정수 곱"):
        quantize_model(model, "round", 4, integer=True)


def test_wrong_requests_are_refused(model, statistics):
    weight = torch.ones(4, 96)
    with pytest.raises(WorkshopError, match="'gtpq'은\\(는\\) 없다"):
        quantize_weight(weight, "gtpq")
    with pytest.raises(WorkshopError, match="GPTQ에는 보정 통계"):
        quantize_model(model, "gptq")
    with pytest.raises(WorkshopError, match="너비 96"):
        quantize_weight(weight, "nf4", 4)


# --- the folder ------------------------------------------------------------------------------------------------------------------


class Tokenizer:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


@pytest.fixture(params=[("gptq", True), ("awq", False), ("nf4", True)], ids=lambda p: f"{p[0]}{'-tied' if p[1] else ''}")
def saved(request, tmp_path):
    method, tied = request.param
    config = TransformerConfig(**{**CONFIG.__dict__, "tie_word_embeddings": tied})
    model = Transformer(config, seed=1).eval()
    small = quantize_model(model, method, statistics=collect(model, [WINDOWS]))
    save_quantized(small, Tokenizer(), tmp_path / "작은 모델")
    return small, tmp_path / "작은 모델"


def test_a_saved_model_comes_back_as_it_was(saved):
    small, folder = saved
    again = load_quantized(folder)
    assert is_quantized(folder) and not is_quantized(folder.parent)
    with torch.no_grad():
        assert torch.equal(again(WINDOWS), small(WINDOWS))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == small.config.tie_word_embeddings


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_can_be_quantised_too(tmp_path, tied):
    model = Transformer(TransformerConfig(**{**CONFIG.__dict__, "tie_word_embeddings": tied}), seed=1).eval()
    small = quantize_model(model, skip=())
    assert "lm_head" in quantized_layers(small)
    save_quantized(small, Tokenizer(), tmp_path)
    with torch.no_grad():
        assert torch.equal(load_quantized(tmp_path)(WINDOWS), small(WINDOWS))


def test_the_file_is_as_small_as_the_arithmetic_says(saved):
    small, folder = saved
    whole = {t.data_ptr(): t for name, t in small.state_dict().items() if "_proj" not in name}
    rest = sum(t.numel() * t.element_size() for t in whole.values())
    size, header = (folder / WEIGHTS).stat().st_size, 150 * len(small.state_dict())
    assert 0 <= size - rest - layer_bytes(small)[0] <= header


def test_transformers_refuses_the_folder_rather_than_filling_it_with_random_weights(saved):
    from transformers import AutoModelForCausalLM

    with pytest.raises(OSError, match="no file named model.safetensors"):
        AutoModelForCausalLM.from_pretrained(saved[1])


def test_a_broken_or_foreign_folder_is_refused(saved):
    folder = saved[1]
    with pytest.raises(WorkshopError, match="양자화한 모델의 폴더가 아니다"):
        load_quantized(folder.parent)
    weights = folder / WEIGHTS
    some = {name: tensor for name, tensor in load_file(weights).items() if "layers.1.mlp" not in name}
    save_file(some, folder.parent / WEIGHTS)
    shutil.copy(folder / "config.json", folder.parent)
    with pytest.raises(WorkshopError, match="읽을 수 없다"):  # a layer is missing: no random weights in its place
        load_quantized(folder.parent)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        load_quantized(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = {}
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    with pytest.raises(WorkshopError, match="읽을 수 없다"):
        load_quantized(folder)
