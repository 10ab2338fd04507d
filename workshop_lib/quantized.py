"""A model whose linear layers are stored as small integers: the layer, the whole model, and its folder.

Notable choices
- `QuantizedLinear` keeps the packed codes and 16-bit scales, and makes the weight anew in each call. That saves memory; without a
  kernel that multiplies codes directly it costs time. `integer_product` is such a kernel for 8 bits.
- Embeddings and output layer stay as they are, as in most published 4-bit models. In the tiny model they are a quarter of the weights,
  so its whole file shrinks less than its layers do.
- The folder's weights have a file name of their own, so that transformers refuses it rather than filling it with random weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.calibration import Statistics, awq_clip, awq_scales, gptq, linear_layers
from workshop_lib.quantization import (
    absmax_int8,
    dequantize_groups,
    nf4_dequantize,
    nf4_quantize,
    pack_bits,
    quantize_groups,
    unpack_bits,
)

WEIGHTS = "quantized.safetensors"  # in a model.safetensors transformers would miss the names it knows and invent the weights
METHODS = {"absmax": "절댓값 최대", "round": "반올림", "gptq": "GPTQ", "awq": "AWQ", "nf4": "NF4"}


@dataclass(frozen=True)
class Codes:
    """A weight as it is stored. `packed` uint8 (out, in · bits / 8); `scales` float16 (rows, groups), one row for all or one each;
    `inputs` float16 (in,), what AWQ multiplied the columns by, or None; `bits`; `normal`: the codes number NF4's levels."""

    packed: Tensor
    scales: Tensor
    inputs: Tensor | None
    bits: int
    normal: bool = False

    def weight(self) -> Tensor:
        """The weight that the codes stand for: float32 (out, in)."""
        if self.normal:
            return nf4_dequantize(self.packed.flatten(), self.scales.float().flatten()).view(len(self.packed), -1)
        weight = dequantize_groups(unpack_bits(self.packed, self.bits), self.scales.float())
        return weight if self.inputs is None else weight / self.inputs.float()


def quantize_weight(
    weight: Tensor, method: str = "round", bits: int = 4, group: int | None = 64, statistics: Statistics | None = None,
) -> Codes:
    """A weight (out, in) by one of METHODS. group: weights that share a scale; 0: a row; None: the whole tensor ("round" only).

    "absmax" is 8 bits with a scale a row, "nf4" 4 bits with blocks of 64. Raises WorkshopError for an unknown method, or when "gptq"
    or "awq" gets no statistics.
    """
    if method not in METHODS:
        raise WorkshopError(f"양자화 방법 '{method}'은(는) 없다. {', '.join(METHODS)} 가운데 하나를 쓴다.")
    if method in ("gptq", "awq") and statistics is None:
        raise WorkshopError(f"{METHODS[method]}에는 보정 통계가 있어야 한다. calibration.collect로 먼저 모은다.")
    weight = weight.detach().float()
    out, width = weight.shape
    if method == "nf4":
        if width % 64:
            raise WorkshopError(f"입력 너비 {width}은(는) 64의 배수가 아니라 NF4의 묶음이 줄을 넘어간다. 64의 배수로 맞춘다.")
        packed, absmax = nf4_quantize(weight, 64)
        return Codes(packed.view(out, -1), absmax.view(out, -1).half(), None, 4, normal=True)
    inputs = None
    if method == "absmax":
        bits, (codes, scales) = 8, absmax_int8(weight)
    elif method == "gptq":
        codes, scales = gptq(weight, statistics.hessian.to(weight.device), bits, group or width)
    elif method == "awq":
        hessian, mean = (x.to(weight.device) for x in (statistics.hessian, statistics.mean))
        inputs = awq_scales(weight, mean, hessian, bits, group or width).half()
        s = inputs.float()
        codes, scales = awq_clip(weight * s, hessian / s / s[:, None], bits, group or width)
    elif group is None:
        codes, scales = quantize_groups(weight.reshape(1, -1), bits, weight.numel())
        codes = codes.view(out, width)
    else:
        codes, scales = quantize_groups(weight, bits, group or width)
    return Codes(pack_bits(codes, bits), scales.half(), inputs, bits)


class QuantizedLinear(nn.Module):
    """A linear layer that keeps `Codes` instead of its weight. x: (..., in) to (..., out).

    `integer`: multiply the codes themselves, with inputs rounded to 8 bits as well; for 8-bit codes with a scale a row.
    """

    def __init__(self, codes: Codes, bias: Tensor | None = None, integer: bool = False):
        super().__init__()
        if integer and (codes.bits != 8 or codes.scales.shape != (len(codes.packed), 1) or codes.inputs is not None):
            raise WorkshopError("정수 곱은 행마다 배율이 하나인 8비트 코드에만 쓸 수 있다. method='absmax'로 양자화한다.")
        self.bits, self.normal, self.integer = codes.bits, codes.normal, integer
        self.register_buffer("packed", codes.packed)
        self.register_buffer("scales", codes.scales)
        self.register_buffer("inputs", codes.inputs)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.out_features, self.in_features = len(codes.packed), codes.packed.shape[1] * 8 // codes.bits

    @property
    def weight(self) -> Tensor:
        """The weight, made anew from the codes: float32 (out, in)."""
        return Codes(self.packed, self.scales, self.inputs, self.bits, self.normal).weight()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) to (..., out)."""
        if self.integer:
            y = integer_product(x, self.packed.view(torch.int8), self.scales.to(x.dtype))
            return y if self.bias is None else y + self.bias
        return F.linear(x, self.weight.to(x.dtype), self.bias)

    def num_bytes(self) -> int:
        """Bytes that the layer keeps."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def extra_repr(self) -> str:
        """What `print(model)` says of the layer."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, groups={self.scales.shape[1]}"


def integer_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x Wᵀ with integers alone inside the product: 8-bit inputs, 8-bit weights, 32-bit sums (Dettmers et al. 2022, eq. 3).

    x: (..., in) float; codes int8 (out, in) and scale (out, 1) from `absmax_int8`. Each token of x gets a scale of its own. Returns
    (..., out), as exact as 8-bit inputs allow.
    """
    rows, largest = absmax_int8(x.flatten(0, -2))  # a token is a row
    tokens = len(rows)
    if x.is_cuda and tokens < 32:  # its kernel takes more than 16 rows
        rows = F.pad(rows, (0, 0, 0, 32 - tokens))
    sums = torch._int_mm(rows, codes.t())[:tokens]  # (tokens, out) int32
    return (sums.float() * largest * scale.flatten()).view(*x.shape[:-1], -1)


def quantize_model(
    model: nn.Module, method: str = "round", bits: int = 4, group: int | None = 64,
    statistics: dict[str, Statistics] | None = None, skip: Iterable[str] = ("lm_head", "score"), integer: bool = False,
) -> nn.Module:
    """A copy of the model whose linear layers are `QuantizedLinear`; those named in `skip`, and embeddings, stay as they are.

    Takes this package's Transformer and transformers' Llama classes. statistics: what `calibration.collect` returns.
    `integer`: as in `QuantizedLinear`.
    """
    result = copy.deepcopy(model).eval()
    for name, layer in linear_layers(result, skip).items():
        codes = quantize_weight(layer.weight, method, bits, group, (statistics or {}).get(name))
        _replace(result, name, QuantizedLinear(codes, layer.bias, integer))
    return result


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}


def layer_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the quantised layers, and of the same layers in float32."""
    layers = quantized_layers(model).values()
    return sum(layer.num_bytes() for layer in layers), sum(4 * layer.in_features * layer.out_features for layer in layers)


# --- the folder -----------------------------------------------------------------------------------------------------------------


def save_quantized(model: nn.Module, tokenizer, folder: Path) -> None:
    """The model as a folder: packed codes in quantized.safetensors, config.json with each layer's format, tokenizer.

    model: this package's Transformer from `quantize_model`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    layers = {name: {"bits": layer.bits, "normal": layer.normal} for name, layer in quantized_layers(model).items()}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = model.config.to_hf(**special, architectures=["LlamaForCausalLM"], dtype="float32").to_dict()
    config["quantization_config"] = {"quant_method": "workshop", "layers": layers}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "workshop-quantized"})
    tokenizer.save_pretrained(folder)


def is_quantized(folder: Path | str) -> bool:
    """Whether a folder holds a model of `save_quantized`."""
    return (Path(folder) / WEIGHTS).is_file()


def load_quantized(folder: Path | str) -> nn.Module:
    """The Transformer of a folder that `save_quantized` wrote, in evaluation mode. Raises WorkshopError when it is none, or broken."""
    from safetensors.torch import load_file

    from workshop_lib.architectures.transformer import Transformer, TransformerConfig
    from workshop_lib.checkpoints import check_readable

    folder = Path(folder)
    if not is_quantized(folder):
        raise WorkshopError(f"{folder}은(는) 양자화한 모델의 폴더가 아니다. `workshop run --weeks 8`로 만든 int4 폴더를 준다.")
    check_readable(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        known = {name: settings[name] for name in TransformerConfig.__dataclass_fields__ if name in settings}
        model = Transformer(TransformerConfig(**known | {"rope_theta": float(settings["rope_parameters"]["rope_theta"])}))
        for name, form in settings["quantization_config"]["layers"].items():
            codes = Codes(*(tensors.get(f"{name}.{part}") for part in ("packed", "scales", "inputs")), form["bits"], form["normal"])
            _replace(model, name, QuantizedLinear(codes, tensors.get(f"{name}.bias")))
        if model.config.tie_word_embeddings and "lm_head.packed" not in tensors:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors)
    except Exception as error:  # a damaged file has a dozen kinds
        raise WorkshopError(f"{folder}의 양자화한 모델을 읽을 수 없다({error}). 폴더를 지우고 다시 만든다.") from error
    return model.eval()
