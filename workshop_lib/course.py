"""The stages in their order, one call for all of them, and the lineage: which artefact came from which.

The lineage is proved, not told. Every artefact's `meta.json` holds the hash that each input had when it was built; an edge
matches only if that hash is the one the input's files have now, computed again from the files themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workshop_lib import WorkshopError
from workshop_lib.workspace import STAGES, Workspace

STATES = {"ready": "준비됨", "stale": "낡음", "altered": "내용이 바뀜", "broken": "깨짐", "missing": "아직 없음"}
FACES = {  # fill and edge of a box in the drawing; the word stands in the box, too
    "ready": ("#eef6ee", "#2e7d32"), "stale": ("#fff4d6", "#b26a00"), "altered": ("#fde7ec", "#b00040"),
    "broken": ("#fde7e7", "#c62828"), "missing": ("#f4f4f4", "#9e9e9e"),
}  # fmt: skip
LANES = ("#1f77b4", "#d95f02", "#6a3d9a", "#1b9e77", "#a6761d", "#e7298a")  # one a source, in course order


@dataclass(frozen=True)
class Edge:
    """An input of an artefact: the hash it had then (`recorded`, None if not built) and the one it has now (`present`)."""

    source: str
    recorded: str | None
    present: str | None

    @property
    def matches(self) -> bool:
        """Whether the artefact was built from the very content that stands there now."""
        return self.recorded is not None and self.recorded == self.present


@dataclass(frozen=True)
class Artefact:
    """One stage of the course as it stands. `state` is a key of STATES, `why` (Korean) is empty when it is ready."""

    stage: str
    week: int
    title: str
    state: str
    why: str = ""
    hash: str = ""
    bytes: int = 0
    seconds: float = 0.0
    inputs: tuple[Edge, ...] = ()


def run(workspace: Workspace, weeks: tuple[int, int] = (1, 10), say: Callable[[str], None] = print) -> list[dict]:
    """Build every stage of the given weeks (first and last included), in order; what stands is left alone.

    Returns a row a stage: week, stage, title, built (False: it stood already), seconds (of this call).
    Raises WorkshopError when the range holds no stage, or as a stage does.
    """
    chosen = [stage for stage in STAGES.values() if weeks[0] <= stage.week <= weeks[1]]
    if not chosen:
        stages = ", ".join(f"{stage.week}주차 {stage.title}" for stage in STAGES.values())
        raise WorkshopError(f"{weeks[0]}-{weeks[1]}주차에는 실행할 단계가 없다. 단계: {stages}")
    rows = []
    for stage in chosen:
        start = time.perf_counter()
        ready = workspace.status(stage.name) == "ready"
        workspace.require(stage.name, say)
        seconds = time.perf_counter() - start
        rows.append({"week": stage.week, "stage": stage.name, "title": stage.title, "built": not ready, "seconds": seconds})
        took = "이미 있다" if ready else f"{seconds:.1f}초"
        say(f"[{stage.week}주차] {stage.title}: {took} → {workspace.path(stage.name)}")
    built = sum(row["built"] for row in rows)
    say(f"모두 {sum(row['seconds'] for row in rows):.1f}초, 단계 {len(rows)}개 가운데 {built}개를 만들었다. "
        f"성적표: `workshop report` → {workspace.home / 'report.html'}")
    return rows


def lineage(workspace: Workspace, verify: bool = True) -> list[Artefact]:
    """Every stage in course order with where it came from, also those that are missing, stale or broken.

    verify: hash the files again (about a second a gigabyte); without it the hash in meta.json is taken at its word.
    Raises nothing for a broken artefact: it is told in its `state` and `why`.
    """
    found, present = [], {}
    for name, stage in STAGES.items():
        try:
            meta, fault = workspace.meta(name), ""
            file = workspace.damaged(name)
        except WorkshopError:
            meta, fault, file = {}, f"meta.json을 읽을 수 없다({name} 폴더를 지운다)", None
        now = (workspace.present_hash(name) if verify else meta["hash"]) if meta and not file else None
        present[name] = now
        recorded = (meta or {}).get("inputs", {})
        edges = tuple(Edge(source, recorded.get(source), present.get(source)) for source in stage.inputs)
        if fault or file:
            state, why = "broken", fault or f"{file} 파일이 없어졌거나 잘렸다"
        elif meta is None:
            state, why = "missing", "이 단계를 아직 실행하지 않았다"
        elif now != meta["hash"]:
            state, why = "altered", "만든 뒤에 파일의 내용이 바뀌었다"
        else:
            state, why = _standing(workspace, name, edges, {row.stage: row.state for row in found})
        known = {key: meta[key] for key in ("hash", "bytes", "seconds")} if meta else {}
        found.append(Artefact(name, stage.week, stage.title, state, why, inputs=edges, **known))
    return found


def _standing(workspace: Workspace, name: str, edges: Sequence[Edge], states: dict[str, str]) -> tuple[str, str]:
    """State and reason of an artefact whose own files are whole."""
    if changed := [edge.source for edge in edges if not edge.matches]:
        return "stale", f"입력({', '.join(STAGES[source].title for source in changed)})이 만들 때와 다르다"
    if unsure := [edge.source for edge in edges if states.get(edge.source) != "ready"]:
        return "stale", f"입력({', '.join(STAGES[source].title for source in unsure)})을 다시 만들어야 한다"
    if workspace.status(name) != "ready":
        return "stale", "설정, 시드 또는 데이터가 만들 때와 다르다"
    return "ready", ""


def draw_lineage(artefacts: Sequence[Artefact]):
    """The lineage as a matplotlib Figure: a row an artefact, a coloured line down from each source to all that read it.

    A full dot is an input whose recorded hash is the present one; a red cross, one whose is not; a hollow dot, one not yet read.
    """
    from matplotlib.figure import Figure

    from workshop_lib.display import pyplot

    pyplot()  # fonts
    places = {artefact.stage: -row for row, artefact in enumerate(artefacts)}
    readers = {name: [places[a.stage] + 0.22 - 0.13 * turn for a in artefacts for turn, edge in enumerate(a.inputs) if edge.source == name]
               for name in places}  # the heights at which its line is tapped
    lanes = {name: lane for lane, name in enumerate(name for name in places if readers[name])}
    left, width = len(lanes) * 0.45, 4.8
    figure = Figure(figsize=(1.35 * (left + width) + 0.2, 0.62 * len(artefacts) + 0.45), dpi=100)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    for name, lane in lanes.items():
        x, colour = 0.45 * (lane + 0.5), LANES[lane % len(LANES)]
        axes.plot([left, x, x], [places[name] - 0.26, places[name] - 0.26, min(readers[name])], color=colour, linewidth=2, zorder=1)
    for artefact in artefacts:
        y = places[artefact.stage]
        for turn, edge in enumerate(artefact.inputs):
            lane, tap = lanes[edge.source], y + 0.22 - 0.13 * turn
            x, colour = 0.45 * (lane + 0.5), LANES[lane % len(LANES)]
            known = edge.recorded is not None
            bad = known and not edge.matches
            axes.plot([x, left], [tap, tap], color="#c62828" if bad else colour, linewidth=1.6, zorder=2,
                      linestyle="-" if edge.matches else (0, (2, 2)))
            axes.plot(x, tap, marker="X" if bad else "o", markersize=9 if bad else 6.5, zorder=4, markeredgewidth=1.5,
                      color="#c62828" if bad else colour, markerfacecolor="#c62828" if bad else colour if known else "white")
        _box(axes, artefact, left, y, width)
    height = len(artefacts)
    words = [(0.1, "o", "#444", "#444", "만들 때의 해시가 지금과 같다"), (2.3, "X", "#c62828", "#c62828", "다르다"),
             (3.1, "o", "#444", "white", "아직 만들지 않았다")]  # fmt: skip
    for offset, marker, colour, inside, text in words:
        axes.plot(left + 0.1 + offset, 0.72, marker=marker, color=colour, markerfacecolor=inside, markersize=7)
        axes.text(left + 0.25 + offset, 0.72, text, va="center", fontsize=8.5, color="#444")
    axes.set(xlim=(0, left + width + 0.1), ylim=(-height + 0.45, 0.95))
    axes.axis("off")
    return figure


def _box(axes, artefact: Artefact, x: float, y: float, width: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    fill, line = FACES[artefact.state]
    axes.add_patch(FancyBboxPatch((x + 0.05, y - 0.34), width - 0.1, 0.68, boxstyle="round,pad=0,rounding_size=0.08", facecolor=fill,
                                  edgecolor=line, linewidth=1.2, linestyle="--" if artefact.state == "missing" else "-", zorder=3))
    axes.text(x + 0.2, y + 0.13, f"{artefact.week}주차  {artefact.title}", va="center", fontsize=11, color="#111", zorder=5)
    axes.text(x + width - 0.2, y + 0.13, STATES[artefact.state], va="center", ha="right", fontsize=9.5, color=line, zorder=5)
    if artefact.hash:
        size = f"{artefact.bytes / 1e6:,.2f} MB" if artefact.bytes >= 1e4 else f"{artefact.bytes:,} 바이트"
        axes.text(x + 0.2, y - 0.16, f"{artefact.hash[:8]}  ·  {size}  ·  {artefact.seconds:,.1f}초", va="center", fontsize=9,
                  color="#333", zorder=5)
    if artefact.state != "ready":
        axes.text(x + width - 0.2, y - 0.16, artefact.why[:46], va="center", ha="right", fontsize=8, color=line, zorder=5)
