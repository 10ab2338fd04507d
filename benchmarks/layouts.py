"""Do two processes learn what one learns? Pretraining and SFT of the course's own model, in one process, under DDP and under FSDP2.

    python benchmarks/layouts.py [--home runs/default] [--steps 40]

Starts the commands of docs/distributed.md with torchrun (one thread a process) on the workspace's corpus and base model and prints the
Markdown table that stands there. Needs the stages of weeks 2, 3 and 5 (`workshop run --weeks 5`); a few minutes on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from workshop_lib.corpora import desk
from workshop_lib.packing import pack, read_documents


def losses(folder: Path, layout: str, *arguments: str) -> list[float]:
    """The curve of a command, in one process ("one") or in two."""
    record = folder / "record.json"
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if layout != "one" else []
    more = ["--layout", layout] if layout != "one" else []
    command = [sys.executable, *start, "-m", *(str(argument).replace("RECORD", str(record)) for argument in arguments), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(record.read_text(encoding="utf-8"))["losses"]


def row(name: str, found: list[float], one: list[float]) -> None:
    """A line of the table."""
    distance = max(abs(a - b) for a, b in zip(found, one))
    told = "0" if distance == 0 else f"{distance:.1e}"
    print(f"| {name} | {found[0]:.5f} | {found[len(found) // 2]:.5f} | {found[-1]:.5f} | {told} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("WORKSHOP_HOME", "runs/default")))
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = read_documents(options.home / "corpus" / "train.jsonl", 0)
        pack(documents, AutoTokenizer.from_pretrained(options.home / "tokenizer"), folder / "train.bin", 200_000)
        chats = desk.conversations(1_000)
        (folder / "chats.jsonl").write_text("".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats), encoding="utf-8")
        print("| 학습 | 첫 손실 | 중간 | 마지막 | 한 프로세스와 가장 먼 단계의 차이 |\n|---|---:|---:|---:|---:|")
        half = options.steps // 2
        for optimizer in ("adamw", "muon"):
            settings = {"steps": options.steps, "optimizer": optimizer, "checkpoint_every": half}
            yardstick = ["workshop_lib.pretraining", folder / "train.bin", "RECORD", "--settings"]
            yardstick += [json.dumps(settings | {"accumulation": 2})]
            command = [*yardstick[:-1], json.dumps(settings)]
            one = losses(folder, "one", *command)
            row(f"사전학습, {optimizer}, 한 프로세스", one, one)
            row(f"사전학습, {optimizer}, 한 프로세스가 배치를 둘로 나누어(자)", losses(folder, "one", *yardstick), one)
            row(f"사전학습, {optimizer}, DDP 2", losses(folder, "ddp", *command), one)
            row(f"사전학습, {optimizer}, FSDP2 2", losses(folder, "fsdp", *command), one)
        for kind, checkpoint in (("파일", folder / "checkpoint.pt"), ("폴더", folder / "checkpoint")):
            again = [*command, "--checkpoint", checkpoint]
            losses(folder, "fsdp", *again, "--stop", str(half))
            kept = folder / "kept"
            (shutil.copytree if checkpoint.is_dir() else shutil.copy)(checkpoint, kept)
            row(f"FSDP2 2로 {half}단계 → 한 프로세스 ({kind})", losses(folder, "one", *again), one)
            (shutil.rmtree if checkpoint.is_dir() else os.remove)(checkpoint)
            kept.rename(checkpoint)
            row(f"FSDP2 2로 {half}단계 → DDP 2 ({kind})", losses(folder, "ddp", *again), one)
        command = ["workshop_lib.posttraining", options.home / "base_model", folder / "chats.jsonl", "RECORD"]
        command += ["--settings", json.dumps({"steps": options.steps})]
        one = losses(folder, "one", *command)
        row("SFT, muon, 한 프로세스", one, one)
        row("SFT, muon, DDP 2", losses(folder, "ddp", *command), one)
        row("SFT, muon, FSDP2 2", losses(folder, "fsdp", *command), one)


if __name__ == "__main__":
    main()
