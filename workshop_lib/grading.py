"""`workshop grade`: a folder of student notebooks becomes marks that an instructor can stand behind.

Nothing that a notebook prints is believed. From each notebook the functions of the week's exercises are taken, with the imports, helpers
and constants that they use (`submission`), run in a process of their own on the exercises' cases (`grading_worker`), and what they return
is compared with the reference in this process. No training cell is run and no artefact is needed, so a notebook takes seconds, and a
check cell that was deleted, renamed or replaced changes nothing.

Who handed it in: the first sub-folder's name; for a file that lies in the folder itself, what its name says besides the notebook's
(홍길동_week03_tokenizer.ipynb and week03_tokenizer_홍길동.ipynb are 홍길동's).

Notable choices
- As `check` does in the notebook, an exercise that others build on is replaced by the reference once the student's own is not right.
- A process that does not end, dies, or eats the memory costs the one exercise that it was at; a fresh one takes the next.
- This is no sandbox. The process gets an empty home, its own working folder and no environment variables of the instructor's, but a
  student who means harm can still read files and use the network. Grade strangers' notebooks in a container.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path

from workshop_lib import WorkshopError, notebooks, submission
from workshop_lib.exercises import Exercise, decide, find
from workshop_lib.grading_process import Run, Worker
from workshop_lib.submission import Submission

SKIPPED = ("__MACOSX", "__pycache__")
NOBODY = "(이름 없음)"


@dataclass(frozen=True)
class Mark:
    """What an exercise got. state: 'passed', 'failed', 'pending' (left as the stub) or 'missing'. out_of: the exercise's difficulty."""

    exercise: str
    title: str
    state: str
    out_of: int
    why: str
    note: str = ""

    @property
    def points(self) -> int:
        """All or nothing."""
        return self.out_of if self.state == "passed" else 0


@dataclass
class Sheet:
    """One notebook's marks. week and marks are None and empty for a file that is no notebook of this course; `note` says why."""

    student: str
    path: Path | None
    week: int | None
    marks: list[Mark] = field(default_factory=list)
    note: str = ""
    answers: dict[str, str] = field(default_factory=dict)  # exercise → fingerprint, where it tells something
    seconds: float = 0.0

    @property
    def points(self) -> int:
        """Points of all exercises."""
        return sum(mark.points for mark in self.marks)


@dataclass(frozen=True)
class Pair:
    """Two students whose answers to the named exercises are the same but for layout and names; `comparable`: how many both answered."""

    week: int
    first: str
    second: str
    exercises: tuple[str, ...]
    comparable: int


@dataclass
class Gradebook:
    """All sheets, students in the order of their names, and the pairs to look at."""

    sheets: list[Sheet]
    pairs: list[Pair]

    @property
    def students(self) -> list[str]:
        """Everybody who has a folder or a file."""
        return sorted({sheet.student for sheet in self.sheets})

    @property
    def weeks(self) -> list[int]:
        """The weeks that were graded."""
        return sorted({sheet.week for sheet in self.sheets if sheet.week})

    def best(self, student: str, week: int) -> Sheet | None:
        """A student's sheet of a week: of several, the one with the most points."""
        own = [sheet for sheet in self.sheets if (sheet.student, sheet.week) == (student, week)]
        return max(own, key=lambda sheet: sheet.points, default=None)


def grade(folder: Path, out: Path = Path("grades"), weeks: tuple[int, int] | None = None, timeout: float = 120.0, jobs: int = 1,
          say: Callable[[str], None] = print) -> Gradebook:  # fmt: skip
    """Grade every notebook under `folder` and write grades.csv, totals.csv and grades.html to `out`.

    weeks: first and last week to grade (default: every week that somebody handed in). timeout: seconds of student code a notebook.
    jobs: notebooks at once. Raises WorkshopError when the folder is missing or holds no notebook.
    """
    from workshop_lib import grade_report

    if not folder.is_dir():
        raise WorkshopError(f"{folder}: 폴더가 아니다. 학생들의 노트북이 든 폴더를 지정한다.")
    students, files = hand_ins(folder, out)
    if not files:
        zips = " 압축 파일은 먼저 푼다." if next(folder.rglob("*.zip"), None) else ""
        raise WorkshopError(f"{folder}: 노트북(.ipynb)이 하나도 없다.{zips}")

    def one(item: tuple[str, Path]) -> Sheet:
        student, path = item
        sheet = replace(grade_notebook(path, timeout, weeks), student=student)
        passed = sum(mark.state == "passed" for mark in sheet.marks)
        if sheet.marks or sheet.note:
            say(f"{student} · {path.name}: " + (f"{passed}/{len(sheet.marks)} 통과 ({sheet.seconds:.1f}초)" if sheet.marks else sheet.note))
        return sheet

    with ThreadPoolExecutor(jobs) as pool:
        sheets = [sheet for sheet in pool.map(one, files) if weeks is None or sheet.week is None or weeks[0] <= sheet.week <= weeks[1]]
    book = Gradebook(_with_absent(sheets, students, weeks), same_answers(sheets))
    book.sheets.sort(key=lambda sheet: (sheet.student, sheet.week or 99, str(sheet.path)))
    grade_report.write(book, out, folder)
    return book


def hand_ins(folder: Path, out: Path | None = None) -> tuple[list[str], list[tuple[str, Path]]]:
    """Everybody with a sub-folder or a file, and (student, notebook) in order. `out` and hidden folders are left aside."""
    students, files = set(), []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        ours = out is not None and path.resolve().is_relative_to(out.resolve())
        if ours or any(part.startswith(".") or part in SKIPPED for part in parts):
            continue
        name = unicodedata.normalize("NFC", parts[0])  # macOS writes Korean names in pieces
        if path.is_dir() and len(parts) == 1:
            students.add(name)
        elif path.is_file() and path.suffix.lower() == ".ipynb":
            files.append((name if len(parts) > 1 else student_in(name), path))
            students.add(files[-1][0])
    return sorted(students), files


def student_in(name: str) -> str:
    """The student that a file's name speaks of: what is left without the notebook's own name, up to the first separator."""
    rest = re.sub(r"\.ipynb$", "", name, flags=re.IGNORECASE)
    rest = re.sub(r"week[\s_-]?\d{1,2}(?:_(?:" + "|".join(_topics()) + r"))?|\d{1,2}\s*주차?", " ", rest, flags=re.IGNORECASE)
    words = [word for word in re.split(r"[_\s().-]+", rest) if word and not word.isdigit()]
    return words[0] if words else NOBODY


@cache
def _topics() -> list[str]:
    found = [path.stem.partition("_")[2] for path in (*notebooks.SOLUTIONS.glob("week*.ipynb"), *notebooks.NOTEBOOKS.glob("week*.ipynb"))]
    return sorted({re.escape(topic) for topic in found if topic}) or [r"[a-z]+"]


def grade_notebook(path: Path, timeout: float = 120.0, weeks: tuple[int, int] | None = None) -> Sheet:
    """Grade one notebook in a process of its own; never raises for what is in the file.

    weeks: a notebook of another week is recognised but not run.
    """
    started = time.perf_counter()
    guessed = submission.week_in_name(path.name)
    try:
        work = submission.read(path)
    except WorkshopError as error:
        marks = [_mark(e, "missing", str(error)) for e in _exercises(guessed)] if guessed else []
        return Sheet(student_in(path.name), path, guessed, marks, str(error))
    week = submission.week_of(work, lambda week: {exercise.name for exercise in _exercises(week)})
    sheet = Sheet(student_in(path.name), path, week)
    if week is None:
        sheet.note = "이 강의의 노트북이 아니다(문제의 함수도, 강의의 셀도 없다)."
        return sheet
    if weeks and not weeks[0] <= week <= weeks[1]:
        return sheet
    with tempfile.TemporaryDirectory(prefix="workshop-grade-", ignore_cleanup_errors=True) as place:
        _copy(path, Path(place))
        with Worker(week, Path(place)) as worker:
            sheet.marks = list(_judge_all(work, week, worker, timeout))
    sheet.answers = _answers(work, week)
    same = [name for name, mark in _published(week).items() if sheet.answers.get(name) == mark]
    if same:
        sheet.marks = [replace(mark, note=mark.note or "풀이판과 같다") if mark.exercise in same else mark for mark in sheet.marks]
        sheet.answers = {name: mark for name, mark in sheet.answers.items() if name not in same}
    if work.broken:
        sheet.note = "; ".join(f"{cell}번째 코드 셀 {why}" for cell, why in list(work.broken.items())[:5])
    sheet.seconds = time.perf_counter() - started
    return sheet


def same_answers(sheets: Iterable[Sheet]) -> list[Pair]:
    """Pairs of different students with a same answer, those with the most first: for a person to look at, no points are taken."""
    pairs = []
    for a, b in combinations([sheet for sheet in sheets if sheet.answers], 2):
        if a.week != b.week or a.student == b.student:
            continue
        both = a.answers.keys() & b.answers.keys()
        same = tuple(mark.exercise for mark in a.marks if mark.exercise in both and a.answers[mark.exercise] == b.answers[mark.exercise])
        if same:
            pairs.append(Pair(a.week, *sorted((a.student, b.student)), same, len(both)))
    return sorted(pairs, key=lambda pair: (-len(pair.exercises), pair.week, pair.first, pair.second))


def _judge_all(work: Submission, week: int, worker: Worker, timeout: float) -> Iterable[Mark]:
    exercises = _exercises(week)
    names = {exercise.name for exercise in exercises}
    wrong: set[str] = set()
    left = timeout
    # In the notebook's order, so that what others build on comes first.
    for exercise in sorted(exercises, key=lambda e: math.inf if (place := work.answer(e.name)) is None else place):
        before = time.perf_counter()
        mark = _judge(work, exercise, names, wrong, worker, left)
        left -= time.perf_counter() - before - worker.loading
        worker.loading = 0.0
        if mark.state != "passed":
            wrong.add(exercise.name)
        yield mark


def _judge(work: Submission, exercise: Exercise, names: set[str], wrong: set[str], worker: Worker, left: float) -> Mark:
    place = work.answer(exercise.name)
    if place is None:
        if cell := work.broken_names.get(exercise.name):
            return _mark(exercise, "failed", f"{cell}번째 코드 셀 {work.broken[cell]}")
        return _mark(exercise, "missing", "함수가 없다. 셀이 지워졌거나 함수 이름이 바뀌었다.")
    if submission.is_stub(work.statements[place].node):
        return _mark(exercise, "pending", "아직 구현 전")
    needed = work.needed(exercise.name, wrong, names)
    if work.calls_reference(exercise.name, needed, getattr(exercise.reference, "__name__", exercise.name)):
        return _mark(exercise, "failed", "라이브러리의 기준 구현을 불러 답했다. 직접 쓴 것이 아니다.")
    if left <= 0:
        return _mark(exercise, "failed", "노트북 하나의 시간 한도를 앞 문제들이 다 써서 실행하지 못했다.")
    code = [[work.statements[i].cell, work.statements[i].source] for i in needed]
    run = worker.run({"name": exercise.name, "code": code, "given": sorted(wrong & names)}, left)
    if run.lost:
        return _mark(exercise, "failed", run.lost + _where(exercise, run))
    if not run.callable:
        return _mark(exercise, "failed", "; ".join(run.said[-2:]) or f"{exercise.name}이(가) 함수가 아니다.")
    if run.reference:
        return _mark(exercise, "failed", "라이브러리의 기준 구현을 그대로 냈다. 직접 쓴 것이 아니다.")
    with _JUDGING:
        verdict = decide(exercise, run.outcomes, finished=len(run.outcomes) >= len(exercise.cases()))
    why = verdict.message + ("" if verdict.state == "passed" or not run.said else f" ({run.said[-1]})")
    return _mark(exercise, {"wrong": "failed"}.get(verdict.state, verdict.state), why)


_JUDGING = threading.Lock()  # comparing puts random states back and swallows prints: one thread at a time


def _where(exercise: Exercise, run: Run) -> str:
    cases = exercise.cases()
    return f" ({len(run.outcomes) + 1}번째 입력에서)" if run.prepared and len(run.outcomes) < len(cases) else ""


def _mark(exercise: Exercise, state: str, why: str) -> Mark:
    return Mark(exercise.name, exercise.title, state, exercise.difficulty, why.removeprefix("통과: ").removeprefix(f"{exercise.title}: "))


def _copy(path: Path, place: Path) -> None:
    """The notebook and the Python files beside it, which it may import."""
    for source in (path, *path.parent.glob("*.py")):
        shutil.copyfile(source, place / source.name)


@cache
def _exercises(week: int) -> list[Exercise]:
    return find(week)


def _answers(work: Submission, week: int) -> dict[str, str]:
    found = {}
    for exercise in _exercises(week):
        place = work.answer(exercise.name)
        mark = submission.fingerprint(work.statements[place].node) if place is not None else None
        if mark:
            found[exercise.name] = mark
    return found


@cache
def _published(week: int) -> dict[str, str]:
    """The answers of the solution edition, where this checkout has it."""
    for path in notebooks.SOLUTIONS.glob(f"week{week:02d}_*.ipynb"):
        return _answers(submission.read(path), week)
    return {}


def _with_absent(sheets: list[Sheet], students: list[str], weeks: tuple[int, int] | None) -> list[Sheet]:
    """The sheets, and an empty one for each week that a student did not hand in but somebody (or the instructor) speaks of."""
    spoken = range(weeks[0], weeks[1] + 1) if weeks else sorted({sheet.week for sheet in sheets if sheet.week})
    have = {(sheet.student, sheet.week) for sheet in sheets}
    absent = [
        Sheet(student, None, week, [_mark(exercise, "missing", "내지 않았다.") for exercise in _exercises(week)], "내지 않았다.")
        for student in students for week in spoken if (student, week) not in have and _exercises(week)
    ]  # fmt: skip
    return sheets + absent
