"""What test_distributed lets torchrun start, and does itself in one process: short runs, each leaving its curve and its weights.

    torchrun --nproc_per_node 2 tests/torchrun_cases.py FOLDER case case …
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_pretraining import TINY, VOCABULARY, tokens

from workshop_lib import packing, pretraining
from workshop_lib.alignment import Training, chat_loss, finetune_chat
from workshop_lib.architectures.transformer import generate
from workshop_lib.distributed import gathered, joined, scatter, seat, spread, whole

CUT = 5  # the step at which a run is broken off, just after an evaluation
SETTINGS = replace(TINY, batch_size=12, checkpoint_every=100, evaluate_every=CUT)  # 12 rows are shared evenly by 2 and by 3


def pretrain(folder: Path, layout: str, name: str, optimizer: str = "muon", ending: str = ".pt", **options) -> dict:
    """A run whose checkpoint, FOLDER/name.pt, holds its weights at the end (and what it begins with, where it is there already)."""
    changes = {key: options.pop(key) for key in ("accumulation", "checkpoint_every", "dtype") if key in options}
    settings = replace(SETTINGS, optimizer=optimizer, **changes)
    model = pretraining.new_model(settings, VOCABULARY).cpu()
    run = pretraining.train(model, tokens(), settings, validation=held_out(), checkpoint=folder / f"{name}{ending}", progress=False,
                            layout=layout, **options)  # fmt: skip
    held = [row["val_bpc"] for row in run.history]
    return {"losses": run.losses, "norms": run.gradient_norms, "held_out": held, "samples": run.samples}


def held_out() -> packing.Validation:
    """Ten documents of the same chain."""
    ids = tokens(1_000, seed=1).astype(int).reshape(10, 100).tolist()
    return packing.validation_windows([packing.Encoded(tuple(row), 200, "") for row in ids], SETTINGS.context)


def cut(folder: Path, layout: str, name: str, ending: str = ".pt") -> dict:
    """The first CUT steps."""
    return pretrain(folder, layout, name, ending=ending, checkpoint_every=CUT, stop=CUT)


def go_on(folder: Path, layout: str, name: str, ending: str = ".pt") -> dict:
    """From a copy of a checkpoint that somebody wrote, to the end."""
    copy = f"{name}-then-{layout}"
    if seat()[0] == 0:
        bring(folder / f"{name}{ending}", folder / f"{copy}{ending}")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return pretrain(folder, layout, copy, ending=ending, checkpoint_every=CUT)


def bring(checkpoint: Path, to: Path) -> None:
    """Copy a checkpoint: a file or a folder."""
    (shutil.copytree if checkpoint.is_dir() else shutil.copy)(checkpoint, to)


def chats(count: int = 60) -> list:
    """Conversations whose answers have one to nine tokens: no two processes have as many to learn from."""
    chance = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        prompt = chance.integers(9, VOCABULARY, chance.integers(2, 9)).tolist()
        answer = [prompt[-1]] * int(chance.integers(1, 10))
        rows.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    return rows


SFT = Training(12, 12, 3e-3, warmup_steps=2)


def sft(folder: Path, layout: str, name: str) -> dict:
    """Supervised fine-tuning, looked at from outside before, midway and after."""
    model = pretraining.new_model(replace(SETTINGS, zero_residual=False), VOCABULARY).cpu()

    def watch(step: int) -> dict:
        return {"held_out": chat_loss(model, chats(80)[60:]), "said": generate(model.eval(), [9, 10], 5, temperature=0)}

    rows = finetune_chat(model, chats(), SFT, watch=watch, every=6, layout=layout)
    weights = whole(model.state_dict())
    if seat()[0] == 0:
        torch.save({"model": weights}, folder / f"{name}.pt")
    return {"losses": [row["loss"] for row in rows[:-1]], "held_out": [row["held_out"] for row in rows if "held_out" in row],
            "said": [row["said"] for row in rows if "said" in row]}  # fmt: skip


def speak(model: torch.nn.Module) -> list[str]:
    """What a model under training says, word by word."""
    return [str(generate(model, [9, 10], 8, temperature=0)), str(generate(model, [20, 30, 40], 40, temperature=0))]


def units() -> dict:
    """Of a model under FSDP2, which parameters each process holds only a part of: at first, gathered, afterwards, after an evaluation;
    and how many whole tensors each has for a checkpoint."""
    model = pretraining.new_model(SETTINGS, VOCABULARY).cpu()
    spread(model, "fsdp")

    def shared() -> list[str]:
        return sorted(name for name, weight in model.named_parameters() if hasattr(weight, "device_mesh"))

    found = {"all": sorted(name for name, _ in model.named_parameters()), "first": shared()}
    with gathered(model):
        found["gathered"] = shared()
    found["afterwards"] = shared()
    pretraining.evaluate(model, held_out())
    found["evaluated"], counts = shared(), [0] * seat()[1]
    scatter(model)
    brought = whole(model.state_dict()).values()
    torch.distributed.all_gather_object(counts, sum(weight is not None for weight in brought))
    return found | {"brought": counts}


CASES = {
    "adamw-ddp": lambda folder: pretrain(folder, "ddp", "adamw-ddp", "adamw"),
    "adamw-fsdp": lambda folder: pretrain(folder, "fsdp", "adamw-fsdp", "adamw"),
    "muon-ddp": lambda folder: pretrain(folder, "ddp", "muon-ddp"),
    "muon-fsdp": lambda folder: pretrain(folder, "fsdp", "muon-fsdp", sample=speak),
    "accumulated-fsdp": lambda folder: pretrain(folder, "fsdp", "accumulated-fsdp", accumulation=2),
    "bfloat16-fsdp": lambda folder: pretrain(folder, "fsdp", "bfloat16-fsdp", dtype="bfloat16"),
    "cut-ddp": lambda folder: cut(folder, "ddp", "cut-ddp"),
    "cut-fsdp": lambda folder: cut(folder, "fsdp", "cut-fsdp"),
    "ddp-to-fsdp": lambda folder: go_on(folder, "fsdp", "cut-ddp"),
    "fsdp-to-ddp": lambda folder: go_on(folder, "ddp", "cut-fsdp"),
    "fsdp-to-fsdp": lambda folder: go_on(folder, "fsdp", "cut-fsdp"),
    "one-to-fsdp": lambda folder: go_on(folder, "fsdp", "cut-one"),
    "parts-cut-ddp": lambda folder: cut(folder, "ddp", "parts-cut-ddp", ""),
    "parts-cut-fsdp": lambda folder: cut(folder, "fsdp", "parts-cut-fsdp", ""),
    "parts-ddp-to-fsdp": lambda folder: go_on(folder, "fsdp", "parts-cut-ddp", ""),
    "parts-fsdp-to-ddp": lambda folder: go_on(folder, "ddp", "parts-cut-fsdp", ""),
    "parts-fsdp-to-fsdp": lambda folder: go_on(folder, "fsdp", "parts-cut-fsdp", ""),
    "parts-one-to-fsdp": lambda folder: go_on(folder, "fsdp", "parts-cut-one", ""),
    "units-fsdp": lambda folder: units(),
    "sft-ddp": lambda folder: sft(folder, "ddp", "sft-ddp"),
    "sft-fsdp": lambda folder: sft(folder, "fsdp", "sft-fsdp"),
}


def main() -> None:
    torch.set_num_threads(1)
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    with joined():
        for name in names:
            found = CASES[name](folder)
            if seat()[0] == 0:
                (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
