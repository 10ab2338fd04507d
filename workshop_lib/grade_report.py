"""What an instructor gets: grades.csv (a row an exercise) and totals.csv (a row a student) for Excel, and grades.html to be read."""

from __future__ import annotations

import csv
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workshop_lib.grading import Gradebook, Mark, Sheet

STATES = {"passed": "통과", "failed": "오답", "pending": "미작성", "missing": "없음"}
COLUMNS = ("학생", "파일", "주차", "문제", "제목", "결과", "점수", "만점", "까닭", "참고")
STYLE = """
body{font-family:"Noto Sans KR","Malgun Gothic","Apple SD Gothic Neo",sans-serif;line-height:1.6}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{border-bottom:1px solid #ccc;padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.passed{color:#11693a}.failed{color:#a3231f}.pending,.missing{color:#6b6b6b}.n{text-align:right;white-space:nowrap}
.why{overflow-wrap:anywhere}summary{cursor:pointer}h2{margin-top:2.5rem}
"""


def write(book: Gradebook, out: Path, folder: Path) -> None:
    """Write the three files to `out`. Korean Excel takes a CSV for UTF-8 only when it begins with a BOM."""
    out.mkdir(parents=True, exist_ok=True)
    _csv(out / "grades.csv", [COLUMNS, *_rows(book, folder)])
    _csv(out / "totals.csv", _totals(book))
    (out / "grades.html").write_text(page(book, folder), encoding="utf-8", errors="replace")


def page(book: Gradebook, folder: Path) -> str:
    """The grades as one HTML page: who got what, which answers are the same, and each exercise with its reason."""
    head, *students = _totals(book)
    parts = ["<h1>채점 결과</h1>", _table(head, students), _pairs(book), "<h2>학생마다</h2>"]
    for student in book.students:
        parts.append(f"<h3>{escape(student)}</h3>")
        parts += [_sheet(sheet, folder) for sheet in book.sheets if sheet.student == student]
    parts.append("<p>점수는 통과한 문제의 난이도(1–5)를 더한 것이다. 결과는 노트북에 찍힌 출력이 아니라, "
                 "학생의 함수를 채점기의 검사 입력으로 다시 실행해 얻었다.</p>")
    return (f'<!doctype html><html lang="ko"><meta charset="utf-8"><title>채점 결과</title><style>{STYLE}</style>'
            + "\n".join(parts) + "</html>\n")  # fmt: skip


def _pairs(book: Gradebook) -> str:
    if not book.pairs:
        return "<h2>같은 답</h2><p>두 줄이 넘는 답 가운데 서로 같은 것이 없다.</p>"
    rows = [(f"{pair.week}주차", pair.first, pair.second, f"{len(pair.exercises)}/{pair.comparable}", ", ".join(pair.exercises))
            for pair in book.pairs]  # fmt: skip
    return ("<h2>같은 답</h2><p>주석, 빈칸, 지역 이름을 빼면 같은 답이다. 풀이판과 같은 답, 한 줄짜리 답은 세지 않았다. "
            "감점하지 않는다. 사람이 보고 정한다.</p>" + _table(("주차", "학생", "학생", "같은 답/견준 답", "문제"), rows))  # fmt: skip


def _sheet(sheet: Sheet, folder: Path) -> str:
    title = f"{sheet.week}주차 · " if sheet.week else ""
    title += _name(sheet, folder) or "내지 않았다"
    passed = sum(mark.state == "passed" for mark in sheet.marks)
    total = f" · {passed}/{len(sheet.marks)} 통과 · {sheet.points}점" if sheet.marks else ""
    note = f"<p>{escape(sheet.note)}</p>" if sheet.note else ""
    rows = "".join(
        f'<tr class="{mark.state}"><td>{escape(mark.title)}<br><code>{escape(mark.exercise)}</code></td><td>{STATES[mark.state]}</td>'
        f'<td class="n">{mark.points}/{mark.out_of}</td><td class="why">{escape(_why(mark))}</td></tr>' for mark in sheet.marks
    )  # fmt: skip
    return f"<details><summary>{escape(title)}{total}</summary>{note}<table>{rows}</table></details>"


def _why(mark: Mark) -> str:
    return " · ".join(text for text in ("" if mark.state == "passed" else mark.why, mark.note) if text)


def _rows(book: Gradebook, folder: Path) -> list[tuple]:
    rows = []
    for sheet in book.sheets:
        name = _name(sheet, folder)
        rows += [(sheet.student, name, sheet.week, m.exercise, m.title, STATES[m.state], m.points, m.out_of,
                  "" if m.state == "passed" else m.why, m.note) for m in sheet.marks]  # fmt: skip
        if not sheet.marks:
            rows.append((sheet.student, name, sheet.week or "", "", "", "채점 안 함", 0, 0, sheet.note, ""))
    return rows


def _totals(book: Gradebook) -> list[tuple]:
    rows = [("학생", *(f"{week}주차" for week in book.weeks), "합계")]
    for student in book.students:
        points = [best.points if (best := book.best(student, week)) else 0 for week in book.weeks]
        rows.append((student, *points, sum(points)))
    full = []
    for week in book.weeks:
        full.append(max(sum(mark.out_of for mark in sheet.marks) for sheet in book.sheets if sheet.week == week))
    return [*rows, ("(만점)", *full, sum(full))]


def _name(sheet: Sheet, folder: Path) -> str:
    return sheet.path.relative_to(folder).as_posix() if sheet.path else ""


def _table(head: tuple, rows: list[tuple]) -> str:
    cells = "".join("<tr>" + "".join(f'<td{_right(cell)}>{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in head) + f"</tr>{cells}</table>"


def _right(cell: object) -> str:
    return ' class="n"' if isinstance(cell, int) else ""


def _csv(path: Path, rows: list[tuple]) -> None:
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
        csv.writer(file).writerows([[_harmless(cell) for cell in row] for row in rows])


def _harmless(cell: object) -> object:
    """A student can write =cmd() into a name or a message, and Excel would calculate it."""
    return "'" + cell if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
