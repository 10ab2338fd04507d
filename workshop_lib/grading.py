"""`workshop grade`: a folder of student notebooks becomes marks that an instructor can stand behind.

Nothing that a notebook prints is believed. From each notebook the functions of the week's exercises are taken, with the imports, helpers
and constants that they use (`submission`), run in a process of their own on the exercises' cases (`grading_worker`), and what they return
is compared with the reference in this process. No training cell is run and no artefact is needed, so a notebook takes seconds, and a
check cell that was deleted, renamed or replaced changes nothing.

Who handed it in: the first sub-folder's name; for a file that lies in the folder itself, what its name says besides the notebook's
(홍길동_week03_tokenizer.ipynb and week03_tokenizer_홍길동.ipynb are 홍길동's). An exercise gives its difficulty in points, or none.

Notable choices
- As `check` does in the notebook, an exercise that others build on is replaced by the reference once the student's own is not right.
- A process that does not end, dies, or eats the memory costs the one exercise that it was at; a fresh one takes the next.
- This is no sandbox. The process gets an empty home, its own working folder and no environment variables of the instructor's, but a
  student who means harm can still read files and use the network. Grade strangers' notebooks in a container.
"""

from __future__ import annotations

import ast
import csv
import inspect
import math
import re
import shutil
import tempfile
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from itertools import combinations, product
from pathlib import Path

from workshop_lib import WorkshopError, notebooks, submission
from workshop_lib.exercises import Exercise, decide, find
from workshop_lib.grading_worker import Worker
from workshop_lib.submission import Submission

NOBODY = "(이름 없음)"
STATES = {"passed": "통과", "failed": "오답", "pending": "미작성", "missing": "없음"}
WEEK_NAME = re.compile(r"week[\s_-]?(\d{1,2})(?:_(?:setup|[a-z]+))?|(\d{1,2})\s*주차?", re.IGNORECASE)
STYLE = """body{font-family:"Noto Sans KR","Malgun Gothic","Apple SD Gothic Neo",sans-serif;line-height:1.6;max-width:70rem}
body{margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:.5rem 0 1.5rem}summary{cursor:pointer}
td,th{border-bottom:1px solid #ccc;padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;word-break:keep-all}"""
_HERE = threading.Lock()  # comparing swallows prints, and ast.parse of Python 3.11 fails in two threads at once: only workers run abreast


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
    """One notebook's marks. week is None and marks are empty for a file that is no notebook of this course; `note` says why."""

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
    """All sheets in the order of students and weeks, and the pairs to look at."""

    sheets: list[Sheet]
    pairs: list[Pair]

    @property
    def students(self) -> list[str]:
        """Everybody who has a folder or a file."""
        return sorted({sheet.student for sheet in self.sheets})

    def best(self, student: str, week: int) -> Sheet | None:
        """A student's sheet of a week: of several, the one with the most points."""
        own = [sheet for sheet in self.sheets if (sheet.student, sheet.week) == (student, week)]
        return max(own, key=lambda sheet: sheet.points, default=None)


def grade(folder: Path, out: Path = Path("grades"), weeks: tuple[int, int] | None = None, timeout: float = 120.0, jobs: int = 1,
          say: Callable[[str], None] = print) -> Gradebook:  # fmt: skip
    """Grade every notebook under `folder`; write grades.csv (a row an exercise), totals.csv (a row a student) and grades.html to `out`.

    weeks: first and last week to grade (default: every week that somebody handed in). timeout: seconds of student code a notebook.
    jobs: notebooks at once. Raises WorkshopError when the folder is missing or holds no notebook.
    """
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
    asked = range(weeks[0], weeks[1] + 1) if weeks else {sheet.week for sheet in sheets if sheet.week}
    for student, week in product(students, asked):
        if not any((sheet.student, sheet.week) == (student, week) for sheet in sheets) and _exercises(week):
            sheets.append(Sheet(student, None, week, [_mark(exercise, "missing", "내지 않았다.") for exercise in _exercises(week)]))
    book = Gradebook(sorted(sheets, key=lambda sheet: (sheet.student, sheet.week or 99, str(sheet.path))), same_answers(sheets))
    write(book, out, folder)
    return book


def hand_ins(folder: Path, out: Path) -> tuple[list[str], list[tuple[str, Path]]]:
    """Everybody with a sub-folder or a file, and (student, notebook) in order. `out` and hidden folders are left aside."""
    students, files = set(), []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.resolve().is_relative_to(out.resolve()) or any(part.startswith((".", "__")) for part in parts):
            continue
        name = unicodedata.normalize("NFC", parts[0])  # macOS writes Korean names in pieces
        if path.is_dir() and len(parts) == 1:
            students.add(name)
        elif path.is_file() and path.suffix.lower() == ".ipynb":
            files.append((name if len(parts) > 1 else student_in(name), path))
            students.add(files[-1][0])
    return sorted(students), files


def student_in(name: str) -> str:
    """The student that a file's name speaks of: its first word, but for numbers and the notebook's own name."""
    words = re.split(r"[_\s().-]+", WEEK_NAME.sub(" ", re.sub(r"\.ipynb$", "", name, flags=re.IGNORECASE)))
    return next((word for word in words if word and not word.isdigit()), NOBODY)


def grade_notebook(path: Path, timeout: float = 120.0, weeks: tuple[int, int] | None = None) -> Sheet:
    """Grade one notebook in a process of its own; never raises for what is in the file.

    weeks: a notebook of another week is recognised but not run.
    """
    started = time.perf_counter()
    sheet = Sheet(student_in(path.name), path, None)
    try:
        with _HERE:
            work = submission.read(path)
    except WorkshopError as error:
        match = WEEK_NAME.search(path.name)
        sheet.week = week if match and 1 <= (week := int(match[1] or match[2])) <= 10 else None
        sheet.marks = [_mark(exercise, "missing", str(error)) for exercise in _exercises(sheet.week)] if sheet.week else []
        sheet.note = str(error)
        return sheet
    sheet.week = work.week
    if sheet.week is None:
        sheet.note = "이 강의의 노트북이 아니다(강의의 셀도, check를 불러오는 셀도 없다)."
    if sheet.week is None or (weeks and not weeks[0] <= sheet.week <= weeks[1]):
        return sheet
    with tempfile.TemporaryDirectory(prefix="workshop-grade-", ignore_cleanup_errors=True) as place:
        shutil.copyfile(path, Path(place) / path.name)
        with Worker(sheet.week, Path(place)) as worker:
            marks = list(_judge_all(work, sheet.week, worker, timeout))
    with _HERE:
        answers, published = _answers(work, sheet.week), _published(sheet.week)
    copied = {name for name, answer in answers.items() if (name, answer) in published}
    sheet.marks = [replace(mark, note="공개된 풀이와 같다" if mark.exercise in copied else "") for mark in marks]
    sheet.answers = {name: answer for name, answer in answers.items() if name not in copied}
    sheet.note = "; ".join(f"{cell}번째 코드 셀 {why}" for cell, why in list(work.broken.items())[:5])
    sheet.seconds = time.perf_counter() - started
    return sheet


def same_answers(sheets: Iterable[Sheet]) -> list[Pair]:
    """Pairs of different students with a same answer, those with the most first: for a person to look at, no points are taken."""
    pairs = []
    for a, b in combinations([sheet for sheet in sheets if sheet.answers], 2):
        both = a.answers.keys() & b.answers.keys() if a.week == b.week and a.student != b.student else set()
        if same := tuple(name for name in a.answers if name in both and a.answers[name] == b.answers[name]):
            pairs.append(Pair(a.week, *sorted((a.student, b.student)), same, len(both)))
    return sorted(pairs, key=lambda pair: (-len(pair.exercises), pair.week, pair.first, pair.second))


# --- one notebook ------------------------------------------------------------------------------------------------------------


def _judge_all(work: Submission, week: int, worker: Worker, left: float) -> Iterable[Mark]:
    exercises, wrong = _exercises(week), set()
    # In the notebook's order, so that what others build on comes first.
    for exercise in sorted(exercises, key=lambda e: math.inf if (place := work.answer(e.name)) is None else place):
        worker.start()  # loading libraries is not the student's time
        before = time.perf_counter()
        mark = _judge(work, exercise, {e.name for e in exercises}, wrong, worker, left)
        left -= time.perf_counter() - before
        if mark.state != "passed":
            wrong.add(exercise.name)
        yield mark


def _judge(work: Submission, exercise: Exercise, names: set[str], wrong: set[str], worker: Worker, left: float) -> Mark:
    place = work.answer(exercise.name)
    if place is None and (cell := work.broken_names.get(exercise.name)):
        return _mark(exercise, "failed", f"{cell}번째 코드 셀 {work.broken[cell]}")
    if place is None:
        return _mark(exercise, "missing", "함수가 없다. 셀이 지워졌거나 함수 이름이 바뀌었다.")
    if submission.is_stub(work.statements[place].node):
        return _mark(exercise, "pending", "아직 구현 전")
    if left <= 0:
        return _mark(exercise, "failed", "노트북 하나의 시간 한도를 앞 문제들이 다 써서 실행하지 못했다.")
    statements = [work.statements[index] for index in work.needed(exercise.name, wrong, names)]
    code = [[statement.cell, ast.unparse(statement.node)] for statement in statements]
    run = worker.run({"name": exercise.name, "code": code, "given": sorted(wrong)}, left)
    if run.lost:
        return _mark(exercise, "failed", f"{run.lost} ({len(run.outcomes) + 1}번째 입력에서)")
    if run.reference:
        return _mark(exercise, "failed", "라이브러리의 기준 구현을 불러 답했다. 직접 쓴 것이 아니다.")
    with _HERE:
        verdict = decide(exercise, run.outcomes, finished=len(run.outcomes) >= len(exercise.cases()))
    why = verdict.message if verdict.state == "passed" or not run.said else f"{verdict.message} ({run.said[-1]})"
    return _mark(exercise, {"wrong": "failed"}.get(verdict.state, verdict.state), why)


def _mark(exercise: Exercise, state: str, why: str) -> Mark:
    return Mark(exercise.name, exercise.title, state, exercise.difficulty, "" if state == "passed" else why)


@cache
def _exercises(week: int) -> list[Exercise]:
    return find(week)


def _answers(work: Submission, week: int) -> dict[str, str]:
    places = {exercise.name: work.answer(exercise.name) for exercise in _exercises(week)}
    found = {name: submission.fingerprint(work.statements[place].node) for name, place in places.items() if place is not None}
    return {name: answer for name, answer in found.items() if answer}


@cache
def _published(week: int) -> set[tuple[str, str]]:
    """The answers of the solution edition, where this checkout has it, and the library's own."""
    found = {(e.name, submission.fingerprint(ast.parse(textwrap.dedent(inspect.getsource(e.reference))).body[0])) for e in _exercises(week)}
    for path in notebooks.SOLUTIONS.glob(f"week{week:02d}_*.ipynb"):
        found |= set(_answers(submission.read(path), week).items())
    return found


# --- what the instructor gets ------------------------------------------------------------------------------------------------


def write(book: Gradebook, out: Path, folder: Path) -> None:
    """Write grades.csv, totals.csv and grades.html to `out`. Korean Excel takes a CSV for UTF-8 only when it begins with a BOM."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [("학생", "파일", "주차", "문제", "제목", "결과", "점수", "만점", "까닭", "참고")]
    for sheet in book.sheets:
        who = (sheet.student, _name(sheet, folder), sheet.week or "")
        rows += [(*who, m.exercise, m.title, STATES[m.state], m.points, m.out_of, m.why, m.note) for m in sheet.marks]
        rows += [] if sheet.marks else [(*who, "", "", "채점 안 함", 0, 0, sheet.note, "")]
    for name, table in (("grades.csv", rows), ("totals.csv", _totals(book))):
        with (out / name).open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
            csv.writer(file).writerows([[_harmless(cell) for cell in row] for row in table])
    (out / "grades.html").write_text(page(book, folder), encoding="utf-8", errors="replace")


def page(book: Gradebook, folder: Path) -> str:
    """The grades as one HTML page: who got what, which answers are the same, and each exercise with its reason."""
    pairs = [("주차", "학생", "학생", "같은 답/견준 답", "문제")]
    pairs += [(p.week, p.first, p.second, f"{len(p.exercises)}/{p.comparable}", ", ".join(p.exercises)) for p in book.pairs]
    parts = ["<h1>채점 결과</h1><p>함수를 채점기의 검사 입력으로 다시 실행해 얻었다. 점수는 통과한 문제의 난이도(1–5)를 더한 것이다.</p>",
             _table(_totals(book)), "<h2>같은 답</h2><p>주석, 빈칸, 지역 이름을 빼면 같은 답이다. 공개된 풀이와 같은 답과 "
             "한 줄짜리 답은 세지 않았다. 감점하지 않는다. 사람이 보고 정한다.</p>", _table(pairs)]  # fmt: skip
    for sheet in book.sheets:
        passed = sum(mark.state == "passed" for mark in sheet.marks)
        title = f"{sheet.student} · {f'{sheet.week}주차 · ' if sheet.week else ''}{_name(sheet, folder) or '내지 않았다'}"
        title += f" · {passed}/{len(sheet.marks)} 통과 · {sheet.points}점" if sheet.marks else ""
        rows = [(f"{m.title} ({m.exercise})", STATES[m.state], f"{m.points}/{m.out_of}", " ".join((m.why, m.note))) for m in sheet.marks]
        table = _table([("문제", "결과", "점수", "까닭"), *rows]) if rows else ""
        parts.append(f"<details><summary>{escape(title)}</summary><p>{escape(sheet.note)}</p>{table}</details>")
    head = f'<!doctype html><html lang="ko"><meta charset="utf-8"><title>채점 결과</title><style>{STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _totals(book: Gradebook) -> list[tuple]:
    weeks = sorted({sheet.week for sheet in book.sheets if sheet.week})
    points = {student: [best.points if (best := book.best(student, week)) else 0 for week in weeks] for student in book.students}
    full = [sum(exercise.difficulty for exercise in _exercises(week)) for week in weeks]
    rows = [(student, *own, sum(own)) for student, own in points.items()]
    return [("학생", *(f"{week}주차" for week in weeks), "합계"), *rows, ("(만점)", *full, sum(full))]


def _table(rows: list[tuple]) -> str:
    head, *rest = (["".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row) for tag in ("th", "td")] for row in rows)
    return "<table><tr>" + head[0] + "</tr>" + "".join(f"<tr>{row[1]}</tr>" for row in rest) + "</table>"


def _name(sheet: Sheet, folder: Path) -> str:
    return sheet.path.relative_to(folder).as_posix() if sheet.path else ""


def _harmless(cell: object) -> object:
    """A student can write =cmd() into a name or a message, and Excel would calculate it."""
    return "'" + cell if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
