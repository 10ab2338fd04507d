"""Training state that survives a kill at any moment, and the finished model as a Hugging Face folder.

What is saved knows nothing of the layout it was trained in (`distributed`): written by two processes it goes on in one, or in three. Under
torchrun every process calls these functions together. A checkpoint is

    a file    one with an ending (checkpoint.pt): whole tensors, which the first process gathers and writes
    a folder  one without (checkpoint/): every process writes its part, by torch.distributed.checkpoint; for models too large to gather
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer, TransformerConfig
from workshop_lib.distributed import parted, scatter, seat, whole

if TYPE_CHECKING:
    from workshop_lib.pretraining import Run


def save_checkpoint(path: Path, model: nn.Module, steppers: list, run: Run, identity: dict) -> None:
    """Write to a temporary file, flush it to the disk, rename: a reader sees the old checkpoint or the new one, never half."""
    if not path.suffix:
        return _save_parts(path, model, steppers, run, identity)
    partial = path.with_name(path.name + ".partial")
    state = {
        "model": whole(model.state_dict()),
        "optimizers": whole([stepper.state_dict() for stepper in steppers]),
        "run": asdict(run),
        "identity": identity,
    }
    if seat()[0] > 0:
        return
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

    Of a folder without a finished checkpoint nothing is read, and the fields are none: the run begins.
    Raises WorkshopError for a file of another run or a broken one.
    """
    if not path.suffix:
        return _load_parts(path, model, steppers, identity)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        _check_identity(path, state["identity"], identity)
        current = model.state_dict()
        model.load_state_dict({name: parted(value, current[name]) if name in current else value for name, value in state["model"].items()})
        for stepper, saved in zip(steppers, state["optimizers"]):
            parameters = [parameter for group in stepper.param_groups for parameter in group["params"]]
            for number, values in saved["state"].items():
                saved["state"][number] = {name: parted(value, parameters[number]) for name, value in values.items()}
            stepper.load_state_dict(saved)
        return state["run"]
    except WorkshopError:
        raise
    except PermissionError as error:
        raise _forbidden(path) from error
    except Exception as error:  # torch.load raises a dozen kinds for a damaged file; a sound one may be of something else
        raise WorkshopError(f"체크포인트 {path}을(를) 읽을 수 없다({_reason(error)}). 파일을 지우고 처음부터 학습한다.") from error


def check_place(path: Path) -> None:
    """Raises WorkshopError where a checkpoint could not be written: better before the training than after its first hour."""
    if not path.absolute().parent.is_dir():
        raise WorkshopError(f"체크포인트 {path}을(를) 둘 폴더 {path.parent}이(가) 없다. 폴더를 먼저 만든다.")
    if path.exists() and path.is_dir() == bool(path.suffix):
        there, wanted = ("폴더", "파일") if path.is_dir() else ("파일", "폴더")
        raise WorkshopError(f"{path}은(는) {there}인데, 이름대로라면 체크포인트는 {wanted}이다. "
                            "끝이 .pt인 이름은 파일, 끝이 없는 이름은 폴더이다.")


def check_outputs(record: Path, model: Path | None = None) -> None:
    """The same for a training command's record, a file, and its model, a folder."""
    if record.is_dir() or not record.absolute().parent.is_dir():
        raise WorkshopError(f"{record}에 기록을 쓸 수 없다. 있는 폴더 안의 새 파일 이름을 준다.")
    if model is not None and model.exists() and not model.is_dir():
        raise WorkshopError(f"{model}은(는) 파일이다. 모델을 쓸 폴더를 준다.")


def _check_identity(path: Path, written: dict, identity: dict) -> None:
    changes = [f"{key}: {written.get(key)} → {value}" for key, value in identity.items() if written.get(key) != value]
    if changes:
        raise WorkshopError(
            f"체크포인트 {path}은(는) 다른 설정으로 학습한 것이다({', '.join(changes)}). 설정을 되돌리거나 {path.name}을(를) 지운다."
        )


def _save_parts(path: Path, model: nn.Module, steppers: list, run: Run, identity: dict) -> None:
    """A folder a step; its run.json comes last, and says that the rest is there. Then the older ones go."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    folder = path / f"{run.step:08d}"
    scatter(model)  # or its outermost parameters would not be those that the optimisers know
    weights, states = get_state_dict(model, steppers)
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is one process
            dcp.save({"model": weights, "optimizers": states}, checkpoint_id=folder, no_dist=seat()[1] == 1)
        if seat()[0] > 0:
            return
        with (folder / "run.partial").open("w", encoding="utf-8") as file:
            json.dump({"run": asdict(run), "identity": identity}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "run.partial", folder / "run.json")
    except (OSError, RuntimeError, dcp.CheckpointException) as error:
        if seat()[0] == 0 and not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of one would fill the disk that is too full already
        raise WorkshopError(
            f"체크포인트 {folder}을(를) 쓸 수 없다({_reason(error)}). 디스크의 남은 공간과 쓰기 권한을 확인한다. "
            "이전 체크포인트는 그대로 있다."
        ) from error
    for other in path.iterdir():
        if other != folder and _holds_parts(other):
            shutil.rmtree(other, ignore_errors=True)


def _holds_parts(folder: Path) -> bool:
    """Whether a folder is a step of ours, finished or not, and nothing else: what is thrown away is never somebody's."""
    if not (folder.is_dir() and len(folder.name) == 8 and folder.name.isdigit()):
        return False
    known = (".metadata", ".metadata.tmp", "run.json", "run.partial")
    return all(file.suffix == ".distcp" or file.name in known for file in folder.iterdir())


def _load_parts(path: Path, model: nn.Module, steppers: list, identity: dict) -> dict:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    try:
        finished = sorted(file for step in path.iterdir() if (file := step / "run.json").is_file())
    except PermissionError as error:  # of which a glob would say nothing, and the run would begin anew
        raise _forbidden(path) from error
    if not finished:
        return {}
    folder = finished[-1].parent
    try:
        written = json.loads(finished[-1].read_text(encoding="utf-8"))
        _check_identity(path, written["identity"], json.loads(json.dumps(identity)))
        weights, states = get_state_dict(model, steppers)
        state = {"model": weights, "optimizers": states}
        with warnings.catch_warnings(action="ignore"):
            dcp.load(state, checkpoint_id=folder, no_dist=seat()[1] == 1)
        set_state_dict(model, steppers, model_state_dict=state["model"], optim_state_dict=state["optimizers"])
    except WorkshopError:
        raise
    except (Exception, dcp.CheckpointException) as error:  # as for a file
        if any(isinstance(cause, PermissionError) for cause in _causes(error)):
            raise _forbidden(folder) from error
        raise WorkshopError(f"체크포인트 {folder}을(를) 읽을 수 없다({_reason(error)}). 폴더를 지우고 처음부터 학습한다.") from error
    return written["run"]


def _reason(error: BaseException) -> str:
    """What went wrong, without the traces that a CheckpointException carries for each process."""
    return ", ".join(dict.fromkeys(f"{type(cause).__name__} {cause}".strip() for cause in _causes(error)))


def _causes(error: BaseException) -> list[BaseException]:
    return [cause for cause, _ in error.failures.values()] if hasattr(error, "failures") else [error]


def save_model(model: Transformer, tokenizer, folder: Path) -> None:
    """A folder that `AutoModelForCausalLM.from_pretrained` reads without this package, with the tokenizer beside it."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    weights = {name: weight.detach().cpu().contiguous() for name, weight in whole(model.state_dict()).items() if weight is not None}
    if seat()[0] > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = model.config.to_hf(**special, architectures=["LlamaForCausalLM"], dtype="float32")
    config.save_pretrained(folder)
    GenerationConfig(**special, do_sample=True, temperature=0.8, top_k=50).save_pretrained(folder)
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def save_instruct(model: Transformer, tokenizer, folder: Path) -> None:
    """As `save_model`; generation also stops where an answer ends, not only where a document does."""
    from transformers import GenerationConfig

    from workshop_lib.engine import end_tokens

    save_model(model, tokenizer, folder)
    if seat()[0] > 0:
        return
    generation = GenerationConfig.from_pretrained(folder)
    generation.eos_token_id = sorted(end_tokens(tokenizer), key=lambda token: token == tokenizer.eos_token_id)
    generation.save_pretrained(folder)


def check_readable(folder: Path) -> None:
    """Raises WorkshopError for weights that this user may not read, of which safetensors says that there is no such file."""
    for path in folder.glob("*.safetensors"):
        try:
            path.open("rb").close()
        except PermissionError as error:
            raise _forbidden(path) from error


def _forbidden(path: Path) -> WorkshopError:
    """What is whole must not be deleted: the other messages of a failed reading tell to."""
    return WorkshopError(
        f"{path}은(는) 있지만 읽을 권한이 없다. 다시 만들 것 없이, 그것을 만든 사용자로 `chmod -R a+rX {path.name}`를 실행하거나 "
        "그 사용자로 다시 시작한다."
    )


def load_model(folder: Path) -> Transformer:
    """This package's Transformer with the weights of a saved folder. Raises WorkshopError for none, a broken or a forbidden one."""
    from safetensors.torch import load_file
    from transformers import AutoConfig

    if not (folder / "model.safetensors").is_file():
        raise WorkshopError(f"{folder}에 model.safetensors가 없다. workshop run --weeks 5로 모델을 먼저 만든다.")
    check_readable(folder)
    try:
        model = Transformer(TransformerConfig.from_hf(AutoConfig.from_pretrained(folder)))
        weights = load_file(folder / "model.safetensors")
        if model.config.tie_word_embeddings:
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights)  # all of them: a weight that is missing would stay random, and nobody would notice
    except Exception as error:  # the three libraries have their own kinds for a damaged file
        raise WorkshopError(f"{folder}의 모델을 읽을 수 없다({error}). 폴더를 지우고 workshop run --weeks 5로 다시 만든다.") from error
    return model
