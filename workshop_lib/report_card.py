"""The report card: report.html, report.md and report.json of what the course measured on this machine.

Notable choices
- Nothing is typed in: numbers come from each stage's `metrics.json`, times, sizes and hashes from `meta.json`. What was not measured
  says so, and why.
- A value stands beside its baseline (`report_tables`), with its 95 % interval where one was measured.
- A stage that is stale, broken or changed says so and spoils no other: the card is made of what can be read.
- The page is one file, without scripts, and without an address outside itself.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workshop_lib import WorkshopError, course, report_page
from workshop_lib.course import STATES, Artefact
from workshop_lib.display import Table
from workshop_lib.report_figures import FIGURES, rows_of, svg
from workshop_lib.report_tables import GRIDS, HEADLINES, UNMEASURED, Cell, filled, finite, shown, shown_keys, verdict, with_interval
from workshop_lib.report_tables import HIGHLIGHTS as HIGHLIGHTS
from workshop_lib.workspace import Workspace

LEGEND = ("기준과 견주어 낫거나 못하면 그렇게 적었다. 두 값에 모두 95 % 구간이 있으면 두 구간이 겹치지 않을 때만, "
          "차이는 그 구간이 0을 품지 않을 때만 적는다. ↑는 클수록, ↓는 작을수록 좋다는 뜻이다.")  # fmt: skip


@dataclass
class Section:
    """What the card says of one week.

    `top`: the one comparison at the top of the page, as (label, value, number) of the stage and of its baseline, and the mark.
    `grids`: (title, columns, rows, reasons). `pictures`: (what it shows, data address). `answers`: (question, before, after).
    """

    name: str
    title: str
    state: str
    note: str
    top: tuple[tuple[str, str, float], tuple[str, str, float], str] | None = None
    grids: list[tuple[str, tuple[str, ...], list[tuple[str, list[Cell]]], list[str]]] = field(default_factory=list)
    rest: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    answers: list[tuple[str, str, str]] = field(default_factory=list)


# --- what was measured ------------------------------------------------------------------------------------------------------


def report(workspace: Workspace, artefacts: list[Artefact] | None = None) -> dict:
    """What was measured, as report.json holds it; a value that is no number (NaN) is None. Never raises for a broken artefact."""
    artefacts = course.lineage(workspace) if artefacts is None else artefacts
    weeks: dict[str, dict] = {}
    metas = [meta for artefact in artefacts if (meta := _meta(workspace, artefact.stage))]
    for artefact in artefacts:
        if artefact.state != "missing":
            values = {key: value if finite(value) else None for key, value in _metrics(workspace, artefact).items()}
            weeks.setdefault(f"week{artefact.week:02d}", {}).update(values)
    feedback = workspace.home / "feedback" / "metrics.json"
    peak = max((meta["peak_rss_mb"] for meta in metas), default=None)
    edges = [edge for artefact in artefacts for edge in artefact.inputs]
    weeks["week10"] = {
        "stages_ready": sum(artefact.state == "ready" for artefact in artefacts), "stages": len(artefacts),
        "edges_matching": sum(edge.matches for edge in edges), "edges": len(edges),
        "total_seconds": round(sum(artefact.seconds for artefact in artefacts), 2),
        "total_bytes": sum(artefact.bytes for artefact in artefacts),
        **({"peak_rss_mb": peak} if peak else {}),
        **{f"feedback_{key}": value if finite(value) else None for key, value in _read(feedback).items()},
    }  # fmt: skip
    versions: dict[str, list[str]] = {}
    for meta in metas:
        for package, version in meta.get("versions", {}).items():
            if version not in versions.setdefault(package, []):
                versions[package].append(version)
    return {
        "profile": workspace.profile.name,
        "data": str(workspace.data) if workspace.data else "bundled",
        "machine": _machine(workspace, artefacts),
        "seed": workspace.profile.seed,
        "versions": {package: " / ".join(found) for package, found in sorted(versions.items())},
        "weeks": weeks,
        "seconds": {artefact.stage: artefact.seconds for artefact in artefacts if artefact.hash},
        "peak_rss_mb": peak,
        "lineage": [
            {"stage": a.stage, "state": a.state, "why": a.why, "hash": a.hash, "bytes": a.bytes, "seconds": a.seconds,
             "inputs": [{"source": e.source, "recorded": e.recorded, "present": e.present, "matches": e.matches} for e in a.inputs]}
            for a in artefacts
        ],
    }  # fmt: skip


def write(workspace: Workspace) -> Path:
    """Write report.json, report.md and report.html into the workspace; returns the path of report.html.

    Raises WorkshopError when there is no such folder.
    """
    if not workspace.home.is_dir():
        raise WorkshopError(f"작업 폴더 {workspace.home}이(가) 없다. 먼저 `workshop run`을 실행한다.")
    artefacts = course.lineage(workspace)
    card = report(workspace, artefacts)
    texts = {
        "report.json": json.dumps(card, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "report.md": markdown(workspace, artefacts),
        "report.html": page(workspace, artefacts),
    }
    for name, text in texts.items():
        temporary = workspace.home / f".{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.replace(workspace.home / name)
        finally:
            temporary.unlink(missing_ok=True)
    return workspace.home / "report.html"


def tables(metrics: Mapping[str, float], stage: str) -> list[Table]:
    """A week's tables for a notebook: a row a measurement, its baseline in the same row. Raises KeyError for an unknown stage."""
    found = []
    for grid in GRIDS[stage]:
        rows, _ = filled(grid, metrics)
        if not rows:
            continue
        cells = ((label, *(cell.text + (f" ({cell.mark})" if cell.mark else "") for cell in row)) for label, row in rows)
        found.append(Table(tuple(cells), (grid.title, *grid.columns)))
    return found


def _sections(workspace: Workspace, artefacts: list[Artefact], card: dict, pictures: bool = True) -> Iterator[Section]:
    for artefact in artefacts:
        metrics = _metrics(workspace, artefact)
        again = f"`workshop run --weeks {artefact.week}`"
        note = {
            "missing": f"{UNMEASURED}: {artefact.why}. 만들기: {again}",
            "broken": f"깨졌다: {artefact.why}. 다시 만들기: {again}",
            "stale": f"낡음: {artefact.why}. 아래는 앞서 잰 값이다. 다시 만들기: {again}",
            "altered": f"내용이 바뀜: {artefact.why}. 아래는 바뀌기 전에 잰 값이다.",
            "ready": f"만드는 데 {artefact.seconds:,.1f}초 걸렸고, 크기는 {shown('bytes', artefact.bytes)}이다.",
        }[artefact.state]
        section = Section(artefact.stage, f"{artefact.week}주차 {artefact.title}", artefact.state, note)
        if metrics:
            section.top = _top(artefact.stage, metrics)
            section.grids = _grids(artefact.stage, metrics)
            told = shown_keys(artefact.stage, metrics)
            section.rest = [(key, with_interval(metrics, key)) for key in metrics if key not in told]
            folder = workspace.path(artefact.stage)
            section.samples = _samples(folder) if artefact.stage == "base_model" else []
            section.answers = _answers(folder) if artefact.stage == "alignment" else []
            for words, draw in FIGURES.get(artefact.stage, ()) if pictures else ():
                if (figure := draw(workspace, metrics)) is not None:
                    section.pictures.append((words, svg(figure)))
        yield section
    whole = card["weeks"]["week10"]
    grids = _grids("course", whole)
    if any(key.startswith("feedback_") for key in whole):
        grids += _grids("feedback", whole)
        note = "모든 단계를 이어서 센 것과, 데모에서 모은 평가로 한 번 더 배운 결과이다."
    else:
        note = f"모든 단계를 이어서 센 것이다. 모은 평가로 다시 배우기: {UNMEASURED}(`workshop feedback`을 아직 실행하지 않았다)."
    yield Section("course", "10주차 통합", "ready", note, _top("course", whole), grids)


def _top(stage: str, metrics: Mapping[str, float]):
    label, key, other, base = HEADLINES.get(stage, ("", "", "", ""))
    if not (finite(metrics.get(key)) and finite(metrics.get(base))):
        return None
    first, second = ((words, shown(name, metrics[name]), metrics[name]) for words, name in ((label, key), (other, base)))
    return first, second, verdict(metrics, key, [base], label[-1])


def _grids(stage: str, metrics: Mapping[str, float]) -> list:
    return [(grid.title, grid.columns, *filled(grid, metrics)) for grid in GRIDS.get(stage, ())]


def _facts(card: dict) -> list[tuple[str, str]]:
    machine = card["machine"]
    words = [f"{machine[key]}{unit}" for key, unit in (("processor", ""), ("cores", "코어"), ("memory_gb", " GB"), ("system", ""),
                                                       ("accelerator", "")) if machine.get(key)]  # fmt: skip
    return [
        ("프로필", card["profile"]), ("시드", str(card["seed"])),
        ("데이터", "함께 실린 말뭉치" if card["data"] == "bundled" else card["data"]),
        ("기계", ", ".join(words) or f"{UNMEASURED}(`workshop run --weeks 1`이 잰다)"),
        ("단계 합계", f"{card['weeks']['week10']['total_seconds']:,.1f}초" if card["seconds"] else UNMEASURED),
        ("최대 메모리", f"{card['peak_rss_mb']:,} MB" if card["peak_rss_mb"] else UNMEASURED),
        ("버전", ", ".join(f"{package} {version}" for package, version in card["versions"].items()) or UNMEASURED),
    ]  # fmt: skip


# --- Markdown ---------------------------------------------------------------------------------------------------------------


def markdown(workspace: Workspace, artefacts: list[Artefact] | None = None) -> str:
    """The report card as Markdown, without pictures."""
    artefacts = course.lineage(workspace) if artefacts is None else artefacts
    card = report(workspace, artefacts)
    lines = ["# 성적표", "", *(f"- {key}: {_plain(value)}" for key, value in _facts(card)), "", LEGEND, ""]
    for section in _sections(workspace, artefacts, card, pictures=False):
        lines += [f"## {section.title}", "", section.note, ""]
        for title, columns, rows, reasons in section.grids:
            cells = [(label, *(cell.text + (f" ({cell.mark})" if cell.mark else "") for cell in row)) for label, row in rows]
            lines += _pipes((title, *columns), cells) if cells else []
            lines += [line for reason in reasons for line in (_plain(reason), "")]
        if section.name == "course":
            lines += _pipes(("산출물", "상태", "해시", "크기", "초", "입력"), [_lineage_row(artefact) for artefact in artefacts])
        if section.answers:
            lines += _pipes(("물음", "정렬 전", "정렬 후"), section.answers)
        if section.rest:
            lines += ["<details><summary>나머지 측정값</summary>", "", *_pipes(("이름", "값"), section.rest), "</details>", ""]
        for sample in section.samples:
            lines += ["> " + _plain(sample).replace("\n", "\n> "), ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text whose marks Markdown (and the HTML in it) leaves alone; what stands in `backquotes` stays code."""
    return re.sub(r"([\\*_\[\]|#~])", r"\\\1", html.escape(text, quote=False))


def _pipes(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(_plain(cell).replace("\r", "").replace("\n", "<br>") for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *map(line, rows), ""]


def _lineage_row(artefact: Artefact) -> tuple[str, ...]:
    said = [f"{edge.source} {edge.recorded[:8]} {'같다' if edge.matches else '다르다'}" for edge in artefact.inputs if edge.recorded]
    head = (f"{artefact.week}주차 {artefact.title}", STATES[artefact.state])
    if not artefact.hash:
        return *head, "–", "–", "–", "–"
    return *head, artefact.hash[:8], shown("bytes", artefact.bytes), f"{artefact.seconds:,.1f}", ", ".join(said)


def page(workspace: Workspace, artefacts: list[Artefact] | None = None) -> str:
    """The report card as one HTML page with its pictures inside."""
    artefacts = course.lineage(workspace) if artefacts is None else artefacts
    card = report(workspace, artefacts)
    sections = list(_sections(workspace, artefacts, card))
    return report_page.page(_facts(card), sections, svg(course.draw_lineage(artefacts)), LEGEND)


# --- reading what a stage left ----------------------------------------------------------------------------------------------


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _meta(workspace: Workspace, stage: str) -> dict | None:
    try:
        return workspace.meta(stage)
    except WorkshopError:
        return None


def _metrics(workspace: Workspace, artefact: Artefact) -> dict:
    """The numbers of a stage; none of a broken one."""
    if artefact.state in ("missing", "broken"):
        return {}
    found = _read(workspace.path(artefact.stage) / "metrics.json")
    return {key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _machine(workspace: Workspace, artefacts: list[Artefact]) -> dict:
    if any(artefact.stage == "environment" and artefact.state in ("missing", "broken") for artefact in artefacts):
        return {}
    found = _read(workspace.home / "environment" / "environment.json").get("machine", {})
    return found if isinstance(found, dict) else {}


def _samples(folder: Path) -> list[str]:
    """What a stage's model has written, of training's last step where there are several."""
    rows = rows_of(folder / "samples.jsonl")
    return [str(row.get("text", "")) for row in rows if row.get("step") == rows[-1].get("step")]


def _answers(folder: Path) -> list[tuple[str, str, str]]:
    return [tuple(str(row.get(key, "")) for key in ("question", "before", "after")) for row in rows_of(folder / "answers.jsonl")]
