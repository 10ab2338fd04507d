"""From one source to two editions of a notebook, and the proof that they agree.

`solutions/*.ipynb` is the source: complete, executed, edited in JupyterLab. `build` makes `notebooks/*.ipynb` from it: what
stands between the solution markers becomes a stub, outputs go, and above each exercise a cell with its difficulty
and folded hints, as the exercise declares them, is put in. Cell ids are kept.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from workshop_lib import WorkshopError
from workshop_lib.exercises import Exercise, find
from workshop_lib.workspace import REPOSITORY

SOLUTIONS = REPOSITORY / "solutions"
NOTEBOOKS = REPOSITORY / "notebooks"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
CHECK = re.compile(r"^(\w+) = check\(\1\)\s*$", re.MULTILINE)
DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)


def sources(only: str | None = None) -> list[Path]:
    """The solution notebooks in course order; with `only` ("week03" or a file name's beginning), those that match."""
    found = sorted(SOLUTIONS.glob("week*.ipynb"))
    if only:
        found = [path for path in found if path.name.startswith(only)]
        if not found:
            raise WorkshopError(f"solutions/에 '{only}'(으)로 시작하는 노트북이 없다.")
    return found


def read(path: Path) -> dict:
    """A notebook as a dict. Raises WorkshopError when the file is no notebook."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise WorkshopError(f"{path}: 노트북 파일이 아니다({type(error).__name__}: {error}).") from error
    return notebook


def dumps(notebook: dict) -> str:
    """The same bytes that nbconvert and JupyterLab write."""
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def student_edition(notebook: dict, exercises: list[Exercise], name: str) -> dict:
    """The student edition of a solution notebook.

    Raises WorkshopError for unbalanced markers, a solution that no check follows, or an exercise that is not declared.
    """
    declared = {exercise.name: exercise for exercise in exercises}
    cells = []
    open_exercises: list[str] = []
    for cell in notebook["cells"]:
        cell = json.loads(json.dumps(cell))
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            if BEGIN in source or END in source:
                exercise = _exercise_name(source, declared, name)
                open_exercises.append(exercise)
                cells.append(_hint_cell(declared[exercise], cell["id"]))
                cell["source"] = _lines(strip_solution(source, name))
            open_exercises = [e for e in open_exercises if e not in CHECK.findall(source)]
        cells.append(cell)
    if open_exercises:
        raise WorkshopError(f"{name}: 풀이 뒤에 check 셀이 없다: {', '.join(open_exercises)}")
    return {**notebook, "cells": cells}


def strip_solution(source: str, name: str = "notebook") -> str:
    """Source with each solution region replaced by a stub: `raise NotImplementedError`, or `x = ...` at top level."""
    kept, inside = [], False
    for line in source.split("\n"):
        if line.strip() == BEGIN and not inside:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            if indent:
                kept += [f"{indent}# 여기에 코드를 쓴다.", f"{indent}raise NotImplementedError"]
        elif line.strip() == END and inside:
            inside = False
        elif inside:
            target = re.match(r"(\w+) = ", line)
            if not indent and target:
                kept.append(f"{target[1]} = ...")
        else:
            kept.append(line)
    if inside or any(BEGIN in line or END in line for line in kept):
        raise WorkshopError(f"{name}: '{BEGIN}'과 '{END}'의 짝이 맞지 않는다.")
    return "\n".join(kept)


def build(check_only: bool = False) -> list[str]:
    """Write the student editions; with `check_only` write nothing. Returns a Korean line for each difference found."""
    problems = []
    wanted = {}
    for path in sources():
        exercises = find(int(path.name[4:6]))
        wanted[path.name] = dumps(student_edition(read(path), exercises, path.name))
    for path in NOTEBOOKS.glob("*.ipynb"):
        if path.name not in wanted:
            problems.append(f"notebooks/{path.name}: 원본 solutions/{path.name}이(가) 없다.")
            if not check_only:
                path.unlink()
    for name, text in wanted.items():
        path = NOTEBOOKS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            problems.append(f"notebooks/{name}: solutions/{name}과(와) 맞지 않는다. `workshop notebooks build`를 실행한다.")
            if not check_only:
                NOTEBOOKS.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return problems


def problems_in(path: Path) -> list[str]:
    """What is wrong with a solution notebook as a source: not executed in order, errors kept, exercises not declared."""
    notebook = read(path)
    code = [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    found = []
    if [c["execution_count"] for c in code] != list(range(1, len(code) + 1)):
        found.append("처음부터 끝까지 차례로 실행되지 않았다. `workshop notebooks execute`를 실행한다.")
    for cell in code:
        for output in cell["outputs"]:
            text = "".join(output.get("text", []))
            if output["output_type"] == "error":
                found.append(f"셀 {cell['id']}: 오류가 저장되어 있다({output['ename']}).")
            if CHECK.search("".join(cell["source"])) and text.startswith(("❌", "⬜")):
                found.append(f"셀 {cell['id']}: 풀이가 검사를 통과하지 못했다: {text.strip()}")
            if output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                found.append(f"셀 {cell['id']}: 진행 표시나 경고가 출력에 남았다.")
    for cell in notebook["cells"]:
        # CommonMark does not close ** between a punctuation mark and a letter: **말(word)**은 stays plain text.
        if cell["cell_type"] == "markdown" and (broken := re.findall(r"\*\*[^*\n]*[^\w\s*]\*\*[가-힣]+", "".join(cell["source"]))):
            found.append(f"셀 {cell['id']}: 굵은 글씨가 되지 않는다: {', '.join(broken)}")
    checked = [name for c in code for name in CHECK.findall("".join(c["source"]))]
    declared = [exercise.name for exercise in find(int(path.name[4:6]))]
    if sorted(checked) != sorted(declared):
        found.append(f"검사 셀({', '.join(checked)})이 선언된 문제({', '.join(declared)})와 다르다.")
    return [f"{path.name}: {line}" for line in found]


def execute(path: Path, to: Path | None = None, html_too: bool = False) -> None:
    """Run a notebook from top to bottom and store it normalised: in place, or under the folder `to`.

    Raises WorkshopError naming the notebook when a cell fails.
    """
    read(path)
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--log-level=ERROR"]
    options = [
        "--ExecutePreprocessor.record_timing=False",
        "--ExecutePreprocessor.timeout=600",
        # One cell's stdout arrives in a varying number of pieces.
        "--NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor",
        "--ClearMetadataPreprocessor.enabled=True",
        "--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags",
        "--ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec",
        "--ClearMetadataPreprocessor.preserve_nb_metadata_mask=('language_info','name')",
    ]
    place = [f"--output-dir={to}"] if to else ["--inplace"]
    environment = {**os.environ, "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # bars leave no trace
    runs = [command + ["--to=notebook", "--execute", *place, *options, str(path)]]
    if html_too:
        runs.append(command + ["--to=html", *([f"--output-dir={to}"] if to else []), str((to or path.parent) / path.name)])
    for run in runs:
        done = subprocess.run(run, check=False, env=environment, capture_output=True, text=True, encoding="utf-8", errors="replace")
        if done.returncode:
            # What the cell said, without the calls inside nbconvert that led there.
            said = done.stderr.rpartition("CellExecutionError: ")[2].strip()[-3000:] or f"{done.returncode}로 끝났다."
            said = said if "CellExecutionError: " in done.stderr else said.splitlines()[-1]
            raise WorkshopError(f"{path.name} 실행이 실패했다. 고친 뒤 다시 실행한다.\n{said}")


def _exercise_name(source: str, declared: dict[str, Exercise], name: str) -> str:
    # The region belongs to the definition that precedes it.
    before = DEFINITION.findall(source[: source.index(BEGIN)] if BEGIN in source else "")
    if not before or before[-1] not in declared:
        raise WorkshopError(f"{name}: 풀이 영역이 선언된 문제({', '.join(declared)})의 함수 안에 있지 않다:\n{source[:200]}")
    return before[-1]


def _hint_cell(exercise: Exercise, cell_id: str) -> dict:
    dots = "●" * exercise.difficulty + "○" * (5 - exercise.difficulty)
    lines = [f"난이도 {dots} · {exercise.minutes}분", ""]
    for number, hint in enumerate(exercise.hints, 1):
        lines += [f"<details><summary>힌트 {number}</summary>", "", hint, "", "</details>", ""]
    return {"cell_type": "markdown", "id": f"{cell_id}-hints", "metadata": {}, "source": _lines("\n".join(lines).rstrip())}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
