"""What NeMo Run launches, once a process, under torchrun: `workshop_lib.pretraining` on a job file. Imports no NeMo."""

import json
import sys
from pathlib import Path

from workshop_lib import pretraining


def main(arguments: list[str] | None = None) -> None:
    """Train what the JSON file (see `launching.Training`) describes."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = json.dumps(job["settings"])
    pretraining.main([job["tokens"], job["record"], f"--settings={settings}", f"--seed={job['seed']}", *job["options"]])


if __name__ == "__main__":
    from workshop_lib.cli import reported

    raise SystemExit(reported(main, "--checkpoint를 준 학습은 마지막 체크포인트에서 이어 간다."))
