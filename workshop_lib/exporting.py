"""A model folder as vLLM and TensorRT-LLM read it. For ONNX Runtime see `onnx_export`, for llama.cpp `gguf_export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from workshop_lib import WorkshopError


def to_serving(folder: Path, out: Path, dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16") -> Path:
    """Write the Llama of `folder` to `out` as engines with an older transformers (4.x) want it: weights, settings, tokenizer.

    Transformers 5 keeps the base of the rotation in `rope_parameters` and names its own tokenizer class; version 4 looks for
    `rope_theta`, and for `PreTrainedTokenizerFast`. What is written here both read.
    """
    import json

    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from workshop_lib.checkpoints import load_model
    from workshop_lib.engine import end_tokens

    if dtype not in ("bfloat16", "float16", "float32"):
        raise WorkshopError(f"'{dtype}'(으)로는 내보내지 않는다. bfloat16, float16, float32 가운데 하나를 쓴다.")
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    _rewrite(out / "tokenizer_config.json", lambda settings: _older_tokenizer(settings, tokenizer))

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = json.loads(model.config.to_hf(**special, architectures=["LlamaForCausalLM"]).to_json_string(use_diff=False))
    kept = ("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
            "attention_bias", "mlp_bias", "initializer_range", *special)  # fmt: skip
    settings = {name: config[name] for name in kept if name in config}
    settings |= {"rope_theta": model.config.rope_theta, "torch_dtype": dtype}
    _write(out / "config.json", settings)
    _write(out / "generation_config.json", special | {"eos_token_id": sorted(end_tokens(tokenizer)), "do_sample": True})
    weights = {name: weight.detach().to(getattr(torch, dtype)).contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod((out / "config.json").stat().st_mode)  # an engine may run as somebody else
    return out


def _older_tokenizer(settings: dict, tokenizer) -> dict:
    kept = ("bos_token", "eos_token", "pad_token", "model_max_length", "clean_up_tokenization_spaces")
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    template = tokenizer.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    return {name: settings[name] for name in kept if name in settings} | {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": list(extra), "chat_template": template,
    }  # fmt: skip


def _rewrite(path: Path, change) -> None:
    import json

    _write(path, change(json.loads(path.read_text(encoding="utf-8"))))


def _write(path: Path, settings: dict) -> None:
    import json

    path.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
