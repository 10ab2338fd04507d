"""Training state that survives a kill at any moment, and the finished model as a Hugging Face folder."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from workshop_lib.pretraining import Run


def save_checkpoint(path: Path, model: nn.Module, steppers: list, run: Run, identity: dict) -> None:
    """Write to a temporary file, flush it to the disk, rename: a reader sees the old checkpoint or the new one, never half."""
    partial = path.with_name(path.name + ".partial")
    state = {
        "model": model.state_dict(),
        "optimizers": [stepper.state_dict() for stepper in steppers],
        "run": asdict(run),
        "identity": identity,
    }
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise WorkshopError(
            f"체크포인트 {path}을(를) 쓸 수 없다({error}). 디스크의 남은 공간과 쓰기 권한을 확인한다. "
            "이전 체크포인트는 그대로 있다."
        ) from error


def load_checkpoint(path: Path, model: nn.Module, steppers: list, identity: dict) -> dict:
    """Put model and optimisers back to where a run stood; returns the fields of its `Run`.

    Raises WorkshopError for a file of another run or a broken one.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for a damaged file
        raise WorkshopError(f"체크포인트 {path}을(를) 읽을 수 없다({error}). 파일을 지우고 처음부터 학습한다.") from error
    differing = [key for key in identity if state["identity"].get(key) != identity[key]]
    if differing:
        changes = ", ".join(f"{key}: {state['identity'].get(key)} → {identity[key]}" for key in differing)
        raise WorkshopError(f"체크포인트 {path}은(는) 다른 설정으로 학습한 것이다({changes}). 설정을 되돌리거나 파일을 지운다.")
    model.load_state_dict(state["model"])
    for stepper, saved in zip(steppers, state["optimizers"]):
        stepper.load_state_dict(saved)
    return state["run"]


def save_model(model: Transformer, tokenizer, folder: Path) -> None:
    """A folder that `AutoModelForCausalLM.from_pretrained` reads without this package, with the tokenizer beside it."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = model.config.to_hf(**special, architectures=["LlamaForCausalLM"], dtype="float32")
    config.save_pretrained(folder)
    GenerationConfig(**special, do_sample=True, temperature=0.8, top_k=50).save_pretrained(folder)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def save_instruct(model: Transformer, tokenizer, folder: Path) -> None:
    """As `save_model`; generation also stops where an answer ends, not only where a document does."""
    from transformers import GenerationConfig

    from workshop_lib.engine import end_tokens

    save_model(model, tokenizer, folder)
    generation = GenerationConfig.from_pretrained(folder)
    generation.eos_token_id = sorted(end_tokens(tokenizer), key=lambda token: token == tokenizer.eos_token_id)
    generation.save_pretrained(folder)


def load_model(folder: Path) -> Transformer:
    """This package's Transformer with the weights of a saved folder."""
    from safetensors.torch import load_file
    from transformers import AutoConfig

    if not (folder / "model.safetensors").is_file():
        raise WorkshopError(f"{folder}에 model.safetensors가 없다. workshop run --weeks 5로 모델을 먼저 만든다.")
    try:
        model = Transformer(TransformerConfig.from_hf(AutoConfig.from_pretrained(folder)))
        weights = load_file(folder / "model.safetensors")
        if model.config.tie_word_embeddings:
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights)  # all of them: a weight that is missing would stay random, and nobody would notice
    except Exception as error:  # the three libraries have their own kinds for a damaged file
        raise WorkshopError(f"{folder}의 모델을 읽을 수 없다({error}). 폴더를 지우고 workshop run --weeks 5로 다시 만든다.") from error
    return model
