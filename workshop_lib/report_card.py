"""The report card: report.html, report.md and report.json of what the course measured on this machine.

Notable choices
- Nothing is typed in: numbers come from each stage's `metrics.json`, times, sizes and hashes from `meta.json`. What was not measured
  says so, and why.
- A value stands beside its baseline (`report_tables`), with its 95 % interval where one was measured.
- A stage that is stale, broken or changed says so and spoils no other: the card is made of what can be read.
- How it looks is in `report_card.html` and `report_card.md`: templates beside this module, which escape whatever they print.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from markupsafe import Markup

from workshop_lib import WorkshopError, course
from workshop_lib.course import STATES, Artefact
from workshop_lib.display import Table
from workshop_lib.report_figures import FIGURES, rows_of, svg
from workshop_lib.report_tables import GRIDS, HEADLINES, SIGNED, UNMEASURED, Grid, finite, interval, shown, with_interval
from workshop_lib.workspace import Workspace

LEGEND = ("기준과 견주어 낫거나 못하면 그렇게 적었다. 두 값에 모두 95 % 구간이 있으면 두 구간이 겹치지 않을 때만, "
          "차이는 그 구간이 0을 품지 않을 때만 적는다. ↑는 클수록, ↓는 작을수록 좋다는 뜻이다.")  # fmt: skip


class Cell(NamedTuple):
    """A value as it is shown. `mark`: "낫다", "못하다" or ""; `kind`: "value", "reference", "unmeasured" or "none"."""

    text: str
    kind: str = "value"
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.mark})" if self.mark else self.text


def report(workspace: Workspace, artefacts: list[Artefact] | None = None) -> dict:
    """What was measured, as report.json holds it; a value that is no number (NaN) is None. Never raises for a broken artefact."""
    artefacts = course.lineage(workspace) if artefacts is None else artefacts
    weeks = {f"week{artefact.week:02d}": _metrics(workspace, artefact) for artefact in artefacts if artefact.state != "missing"}
    versions: dict[str, dict[str, None]] = {}
    metas = [_read(workspace.path(artefact.stage) / "meta.json") for artefact in artefacts if artefact.hash]
    for package, version in (pair for meta in metas for pair in meta.get("versions", {}).items()):
        versions.setdefault(package, {})[version] = None
    peak = max((meta["peak_rss_mb"] for meta in metas), default=None)
    edges = [edge for artefact in artefacts for edge in artefact.inputs]
    feedback = _read(workspace.home / "feedback" / "metrics.json")
    weeks["week10"] = {
        "stages_ready": sum(artefact.state == "ready" for artefact in artefacts), "stages": len(artefacts),
        "edges_matching": sum(edge.matches for edge in edges), "edges": len(edges),
        "total_seconds": round(sum(artefact.seconds for artefact in artefacts), 2),
        "total_bytes": sum(artefact.bytes for artefact in artefacts),
        **({"peak_rss_mb": peak} if peak else {}), **{f"feedback_{key}": value for key, value in feedback.items()},
    }  # fmt: skip
    usable = any(artefact.stage == "environment" and artefact.state not in ("missing", "broken") for artefact in artefacts)
    machine = _read(workspace.home / "environment" / "environment.json").get("machine") if usable else None
    return {
        "profile": workspace.profile.name,
        "data": str(workspace.data) if workspace.data else "bundled",
        "machine": machine if isinstance(machine, dict) else {},
        "seed": workspace.profile.seed,
        "versions": {package: " / ".join(found) for package, found in sorted(versions.items())},
        "weeks": {week: {key: value if finite(value) else None for key, value in metrics.items()} for week, metrics in weeks.items()},
        "seconds": {artefact.stage: artefact.seconds for artefact in artefacts if artefact.hash},
        "peak_rss_mb": peak,
        "lineage": [{**asdict(artefact), "inputs": [{**asdict(edge), "matches": edge.matches} for edge in artefact.inputs]}
                    for artefact in artefacts],
    }  # fmt: skip


def write(workspace: Workspace) -> Path:
    """Write report.json, report.md and report.html into the workspace; returns the path of report.html.

    Raises WorkshopError when there is no such folder.
    """
    if not workspace.home.is_dir():
        raise WorkshopError(f"작업 폴더 {workspace.home}이(가) 없다. 먼저 `workshop run`을 실행한다.")
    artefacts = course.lineage(workspace)
    texts = {
        "report.json": json.dumps(report(workspace, artefacts), ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "report.md": markdown(workspace, artefacts),
        "report.html": page(workspace, artefacts),
    }
    for name, text in texts.items():
        whole = workspace.home / f".{name}.tmp"  # nobody reads half a page
        whole.write_text(text, encoding="utf-8", errors="replace")
        whole.replace(workspace.home / name)
    return workspace.home / "report.html"


def page(workspace: Workspace, artefacts: list[Artefact] | None = None) -> str:
    """The report card as one HTML page with its pictures inside: no script, no address outside itself."""
    return _rendered("report_card.html", lambda text: re.sub(r"`([^`<>&]+)`", r"<code>\1</code>", html.escape(text)), workspace, artefacts)


def markdown(workspace: Workspace, artefacts: list[Artefact] | None = None) -> str:
    """The report card as Markdown, without pictures."""

    def plain(text: str) -> str:
        """Text whose marks Markdown, its tables and the HTML in it leave alone; what stands in `backquotes` stays code."""
        escaped = re.sub(r"([\\*_\[\]|#~])", r"\\\1", html.escape(text, quote=False))
        return escaped.replace("\r", "").replace("\n", "<br>")

    return _rendered("report_card.md", plain, workspace, artefacts)


def tables(metrics: Mapping[str, float], stage: str) -> list[Table]:
    """A week's tables for a notebook: a row a measurement, its baseline in the same row. Raises KeyError for an unknown stage."""
    found = [(grid, filled(grid, metrics)[0]) for grid in GRIDS[stage]]
    return [Table(tuple((label, *map(str, cells)) for label, cells in rows), (grid.title, *grid.columns)) for grid, rows in found if rows]


def filled(grid: Grid, metrics: Mapping[str, float]) -> tuple[list[tuple[str, list[Cell]]], list[str]]:
    """The rows of a grid as (label, cells), and what of it was not measured with the reason; a row of nothing is only told there."""
    rows, gaps, named = [], {}, {label: keys for label, *keys in grid.rows}
    for label, keys in named.items():
        there = any(key in metrics for key in keys)
        paired = any(map(SIGNED.search, keys))  # then the difference is what is marked
        cells = []
        for place, (column, key) in enumerate(zip(grid.columns, keys)):
            if not key:
                cells.append(Cell("–", "none"))
            elif key not in metrics:
                why = next((why for part, why in grid.absent.items() if part in key), "이 값은 이 데이터나 이 기계에서는 재지 않는다")
                gaps.setdefault((column if there else "", why), {})[label] = None
                cells.append(Cell(UNMEASURED, "unmeasured"))
            elif label in grid.reference or column in grid.reference:
                cells.append(Cell(with_interval(metrics, key), "reference"))
            else:
                rivals = [rival for name, rival in zip(grid.columns, keys) if name in grid.reference]
                rivals += [named[row][place] for row in grid.reference if row in named]
                words = column + (label if (SIGNED.search(key) if paired else place == 0) else "")
                cells.append(Cell(with_interval(metrics, key), "value", verdict(metrics, key, rivals, words)))
        rows += [(label, cells)] if there else []
    told = []
    for (column, why), labels in gaps.items():
        names = ", ".join(labels)
        told.append(f"{UNMEASURED}: {f'{column}({names})' if column else (not rows and grid.title) or names}. {why}.")
    return rows, told


def verdict(metrics: Mapping[str, float], key: str, others: Sequence[str], words: str) -> str:
    """ "낫다" if a metric beats all the others, "못하다" if one beats it, else "". words: a label that says ↑, ↓ or neither.

    Intervals that overlap decide nothing; a difference is held against zero, and only by its interval.
    """
    ours = interval(metrics, key)
    if SIGNED.search(key):
        pairs = [(ours, (0.0, 0.0))] if ours else []
    else:
        known = [other for other in others if finite(metrics.get(key)) and finite(metrics.get(other))]
        pairs = [(ours, theirs) if ours and (theirs := interval(metrics, other)) else ((metrics[key],) * 2, (metrics[other],) * 2)
                 for other in known]  # fmt: skip
    signs = {(a[0] > b[1]) - (a[1] < b[0]) for a, b in pairs}
    better = 1 if "↑" in words else -1 if "↓" in words else 0
    return "" if not better else "못하다" if -better in signs else "낫다" if signs == {better} else ""


def _rendered(template: str, escape: Callable[[str], str], workspace: Workspace, artefacts: list[Artefact] | None) -> str:
    """A template with the card in it; whatever it prints goes through `escape`."""

    def printed(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(escape(str(value)))

    def picture(stage: str, metrics: Mapping[str, float]) -> str:
        figure = FIGURES[stage][1](workspace.home / stage, metrics) if stage in FIGURES else None
        return svg(figure) if figure else ""

    artefacts = course.lineage(workspace) if artefacts is None else artefacts
    card = report(workspace, artefacts)
    weeks = [_week(workspace, artefact) for artefact in artefacts]
    weeks.append(_section("10주차 통합", "ready", "모든 단계를 이어서 센 것이다.", card["weeks"]["week10"], "course", "feedback"))
    jinja = Environment(autoescape=True, finalize=printed, trim_blocks=True, lstrip_blocks=True)
    return jinja.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(
        facts=_facts(card), legend=LEGEND, weeks=weeks, artefacts=artefacts, states=STATES, unmeasured=UNMEASURED, figures=FIGURES,
        picture=picture, lineage=lambda: svg(course.draw_lineage(artefacts)), size=lambda value: shown("bytes", value),
    )  # fmt: skip


def _week(workspace: Workspace, artefact: Artefact) -> dict:
    again, why = f"`workshop run --weeks {artefact.week}`", artefact.why
    note = {
        "missing": f"{UNMEASURED}: {why}. 만들기: {again}",
        "broken": f"깨졌다: {why}. 다시 만들기: {again}",
        "stale": f"낡음: {why}. 아래는 앞서 잰 값이다. 다시 만들기: {again}",
        "altered": f"내용이 바뀜: {why}. 아래는 바뀌기 전에 잰 값이다.",
        "ready": f"만드는 데 {artefact.seconds:,.1f}초 걸렸고, 크기는 {shown('bytes', artefact.bytes)}이다.",
    }[artefact.state]
    week = _section(f"{artefact.week}주차 {artefact.title}", artefact.state, note, _metrics(workspace, artefact), artefact.stage)
    if week["metrics"]:
        texts = rows_of(workspace.path("base_model") / "samples.jsonl") if artefact.stage == "base_model" else []
        week["samples"] = [row.get("text", "") for row in texts if row.get("step") == texts[-1].get("step")]  # of the last step
        week["answers"] = rows_of(workspace.path("alignment") / "answers.jsonl") if artefact.stage == "alignment" else []
    return week


def _section(title: str, state: str, note: str, metrics: Mapping[str, float], *stages: str) -> dict:
    """What the templates say of one week: its headline with two bars, its tables, and the rest of its measurements."""
    grids = [grid for stage in stages for grid in GRIDS[stage]] if metrics else []
    told = {key for grid in grids for row in grid.rows for key in row[1:]}
    label, key, other, base = HEADLINES[stages[0]]
    pair, bars = {label: key, other: base}, []
    if all(finite(metrics.get(name)) for name in pair.values()):
        largest = max(abs(metrics[name]) for name in pair.values()) or 1
        bars = [(words, shown(name, metrics[name]), round(100 * abs(metrics[name]) / largest)) for words, name in pair.items()]
    return {
        "stage": stages[0], "title": title, "state": state, "note": note, "metrics": metrics,
        "bars": bars, "mark": verdict(metrics, key, [base], label),
        "tables": [(grid, *filled(grid, metrics)) for grid in grids],
        "rest": [(key, with_interval(metrics, key)) for key in metrics if key not in told and not key.endswith(("_low", "_high"))],
    }  # fmt: skip


def _facts(card: dict) -> list[tuple[str, object]]:
    machine, units = card["machine"], {"processor": "", "cores": "코어", "memory_gb": " GB", "system": "", "accelerator": ""}
    return [
        ("프로필", card["profile"]), ("시드", card["seed"]),
        ("데이터", "함께 실린 말뭉치" if card["data"] == "bundled" else card["data"]),
        ("기계", ", ".join(f"{machine[key]}{unit}" for key, unit in units.items() if machine.get(key))
            or f"{UNMEASURED}(`workshop run --weeks 1`이 잰다)"),
        ("단계 합계", f"{card['weeks']['week10']['total_seconds']:,.1f}초" if card["seconds"] else UNMEASURED),
        ("최대 메모리", f"{card['peak_rss_mb']:,} MB" if card["peak_rss_mb"] else UNMEASURED),
        ("버전", ", ".join(f"{package} {version}" for package, version in card["versions"].items()) or UNMEASURED),
    ]  # fmt: skip


def _metrics(workspace: Workspace, artefact: Artefact) -> dict:
    """The numbers of a stage; none of a broken one."""
    if artefact.state in ("missing", "broken"):
        return {}
    found = _read(workspace.path(artefact.stage) / "metrics.json")
    return {key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
