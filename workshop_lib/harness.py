"""The course's tasks for lm-evaluation-harness (Gao 2021), and a run of it on the student's model, without a network.

A task of the harness is a YAML file: where the rows are, how a row becomes a question (a Jinja template), which answers
there are, what is measured. `write_task` writes it beside its rows; `run_lm_eval` starts the real `lm_eval` on it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.benchmark_tasks import SHOT_POOL, Task
from workshop_lib.likelihood import DELIMITER

PREFIX = "workshop_"


def available() -> bool:
    """Whether lm-evaluation-harness is installed (it comes with `pip install "workshop_lib[lab]"`)."""
    return importlib.util.find_spec("lm_eval") is not None


def write_task(task: Task, folder: Path | str, wording: int = 0, start: str = "") -> Path:
    """Write `workshop_<name>.yaml` and its rows into `folder`; returns the YAML file's path.

    `start`: the token that opens a document, which the harness does not add by itself. Examples for few-shot prompts are taken in the
    order of `Task.shots`.
    """
    if not task.labels:
        raise WorkshopError(f"'{task.name}' 과제에는 고를 답이 없어 객관식 과제 파일로 쓸 수 없다.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    way = task.wordings[wording]
    files = {"test": task.test, "shots": task.shots(SHOT_POOL)}
    for split, rows in files.items():
        keep = [*task.fields, "label"]
        lines = (json.dumps({key: row[key] for key in keep}, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{task.name}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = "\n".join([
        f"task: {PREFIX}{task.name}",
        "dataset_path: json",
        "dataset_kwargs:",
        "  data_files:",
        *(f"    {split}: {task.name}_{split}.jsonl" for split, rows in files.items() if rows),
        "test_split: test",
        *(["fewshot_split: shots", "fewshot_config:", "  sampler: first_n"] if files["shots"] else []),
        "output_type: multiple_choice",
        f"description: {_quoted(start)}",
        f"doc_to_text: {_quoted(jinja(way.template))}",
        f"doc_to_choice: {_quoted(list(way.choices))}",
        "doc_to_target: label",
        'target_delimiter: " "',
        f"fewshot_delimiter: {_quoted(DELIMITER)}",
        "metric_list:",
        *(f"  - metric: {metric}\n    aggregation: mean\n    higher_is_better: true" for metric in ("acc", "acc_norm")),
        "metadata:",
        "  version: 1.0",
        "",
    ])
    path = folder / f"{PREFIX}{task.name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def jinja(template: str) -> str:
    """A template of `str.format` as one of Jinja: {premise} becomes {{premise}}."""
    return re.sub(r"{(\w+)}", r"{{\1}}", template)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON value is a YAML value


def run_lm_eval(
    model: Path | str, folder: Path | str, names: Sequence[str], shots: int = 0, batch: int = 32,
) -> dict[str, dict[str, float]]:
    """Run `lm_eval` on a model folder and tasks that `write_task` wrote into `folder`: {name: {"acc", "acc_norm", …}}.

    Raises WorkshopError where lm_eval is not installed, a task file is missing, or the run fails (with the end of its log).
    """
    if not available():
        raise WorkshopError('lm_eval이 설치되어 있지 않다. `pip install "workshop_lib[lab]"`으로 설치한다.')
    model, folder = Path(model).resolve(), Path(folder).resolve()
    for name in names:
        if not (folder / f"{PREFIX}{name}.yaml").is_file():
            raise WorkshopError(f"{folder}: {PREFIX}{name}.yaml이 없다. 먼저 write_task로 과제 파일을 쓴다.")
    with tempfile.TemporaryDirectory(prefix="lm-eval-") as scratch:
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
            "--tasks", ",".join(PREFIX + name for name in names), "--include_path", str(folder), "--num_fewshot", str(shots),
            "--batch_size", str(batch), "--device", "cpu", "--output_path", scratch,
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": f"{scratch}/cache", "TQDM_DISABLE": "1",
                   "PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=folder, env=os.environ | offline, capture_output=True, encoding="utf-8", errors="replace")
        found = sorted(Path(scratch).rglob("results*.json"))
        if done.returncode or not found:
            tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise WorkshopError(f"lm_eval이 끝나지 못했다(종료 코드 {done.returncode}). 기록의 끝:\n{tail}")
        results = json.loads(found[-1].read_text(encoding="utf-8"))["results"]
    return {name: _numbers(results[PREFIX + name]) for name in names}


def _numbers(result: dict) -> dict[str, float]:
    """'acc,none' and the like under their plain names."""
    return {key.removesuffix(",none"): value for key, value in result.items() if isinstance(value, float) and key.endswith(",none")}
