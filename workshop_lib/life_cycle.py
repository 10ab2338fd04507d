"""Week 1: two maps. The course, drawn from `workspace.STAGES` so that it cannot go out of date; and who reads a model's folder.

A box is a stage with what it makes; an arrow says who reads it. An input that another input already stands on is left out of
the drawing (every stage from week 4 on reads the corpus), but stands in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from workshop_lib.workspace import STAGES, Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The four parts of a model's life, the weeks that belong to them, and a pale colour (apart for colour-blind eyes too).
PARTS = {
    "데이터": ((2, 3), "#cfe8ff"),
    "사전학습": ((4, 5), "#ffe3b3"),
    "다듬기와 평가": ((6, 7, 9), "#d9f2d0"),
    "배포": ((8, 10), "#f6d5e5"),
}
LAST = ("통합", "채팅 데모와 성적표")  # week 10 puts together what stands, and is no stage of the workspace
# What reads (and writes) a folder in Hugging Face's form: place in the map, what it does, whether it gives such a folder back,
# and the doctor's names of the tools. Megatron Core's own checkpoint is reached over Megatron-Bridge only.
READERS = {
    "transformers": ((0, 1), "불러 쓰고 시험한다", True, ("transformers",)),
    "peft · trl": ((0, 0), "미세조정, 정렬", True, ("peft", "trl")),
    "ONNX · GGUF": ((0, -1), "내보내어 가볍게", False, ("ONNX Runtime",)),
    "NeMo AutoModel": ((2, 1), "변환 없이 여러 GPU로", True, ("NeMo AutoModel",)),
    "Megatron-Bridge": ((2, 0), "이름과 모양을 바꾼다", True, ("Megatron-Bridge",)),
    "vLLM · TensorRT-LLM": ((2, -1), "서버에서 빠르게", False, ("vLLM", "TensorRT-LLM")),
    "Megatron Core": ((3, 0), "모델을 쪼개어 학습", True, ("Megatron Core",)),
}
WIDTH, HEIGHT = 0.84, 0.7  # of a box, where columns and rows are 1 apart


def direct_inputs(name: str) -> tuple[str, ...]:
    """The inputs of a stage without those that another of its inputs stands on."""
    inputs = STAGES[name].inputs
    return tuple(one for one in inputs if not any(one in _behind(other) for other in inputs if other != one))


def rows(workspace: Workspace) -> list[dict[str, str]]:
    """A row a stage for `display.table`: week, what is done, what goes in, what comes out, whether it is there yet."""
    state = {"ready": "있음", "stale": "낡음", "broken": "깨짐", "missing": "아직 없음"}
    return [
        {
            "주": f"{stage.week}주차",
            "하는 일": stage.title,
            "들어가는 것": ", ".join(STAGES[name].product for name in stage.inputs) or "-",
            "나오는 것": stage.product,
            "폴더": name,
            "내 작업 공간": state[workspace.status(name)],
        }
        for name, stage in STAGES.items()
    ]


def figure(note: Callable[[str], str] | None = None) -> Figure:
    """The map; `note(stage name)` is written under a box's two lines (the artefact's size and age, say)."""
    from workshop_lib.display import pyplot

    plt = pyplot()
    ground = [name for name, stage in STAGES.items() if not stage.inputs and not _readers(name)]
    leaves = [name for name in STAGES if name not in ground and not _readers(name)]
    ends = {name: [i for i, leaf in enumerate(leaves) if name == leaf or name in _behind(leaf)] for name in STAGES}
    # A row for each stage that nothing reads; the others stand level with the middle of what becomes of them.
    place = {name: (_depth(name), -sum(rows) / len(rows)) for name, rows in ends.items() if rows}
    last = max(x for x, _ in place.values()) + 1
    middle = -(len(leaves) - 1) / 2

    fig, axes = plt.subplots(figsize=(10, 1.5 + 0.75 * len(leaves)), layout="constrained")
    for name, (x, y) in place.items():
        stage = STAGES[name]
        for source in direct_inputs(name):
            _arrow(axes, place[source], (x, y))
        if name in leaves and stage.week < 10:
            _arrow(axes, (x, y), (last, y))
        _box(axes, (x, y), (WIDTH, HEIGHT), f"{stage.week}주차 {stage.title}", stage.product, _colour(stage.week), note and note(name))
    if all(stage.week < 10 for stage in STAGES.values()):
        _box(axes, (last, middle), (WIDTH, len(leaves) - 1 + HEIGHT), f"10주차 {LAST[0]}", LAST[1], _colour(10), None)
    for i, name in enumerate(ground):  # nothing is made of it, everything runs on it
        stage = STAGES[name]
        place[name] = (last / 2, -len(leaves) - i)
        text = (f"{stage.week}주차 {stage.title}", f"{stage.product}: 모든 주가 이 위에서 돈다")
        _box(axes, place[name], (last + WIDTH, HEIGHT), *text, "#eeeeee", note and note(name))
    for part, (_, colour) in PARTS.items():
        axes.plot([], [], "s", color=colour, markersize=11, label=part)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.04), ncols=len(PARTS), frameon=False)
    axes.set(xlim=(-0.5, last + 0.5), ylim=(0.4 - len(leaves) - len(ground), 0.8))
    axes.axis("off")
    plt.close(fig)  # a notebook shows what the cell returns; without this it would show it twice
    return fig


def folder_map(ready: Collection[str]) -> Figure:
    """Who reads a model's folder, and over what; a solid frame for the tools in `ready` (names of `workshop doctor`)."""
    from workshop_lib.display import pyplot

    plt = pyplot()
    fig, axes = plt.subplots(figsize=(10, 3.4), layout="constrained")
    size, middle = (WIDTH, HEIGHT), (1, 0)
    _box(axes, middle, size, "config · 가중치 · 토크나이저", "Hugging Face 폴더", PARTS["사전학습"][1], None)
    for name, (place, does, back, tools) in READERS.items():
        here = all(tool in ready for tool in tools)
        source = (2, 0) if place[0] == 3 else middle
        left = place[0] < source[0]
        start, end = (place, source) if left else (source, place)
        _arrow(axes, start, end, style="<|-|>" if back else "<|-" if left else "-|>", line="-" if here else "--")
        _box(axes, place, size, does, name, PARTS["데이터" if here else "배포"][1], None, "-" if here else "--")
    axes.plot([], [], "s", color=PARTS["데이터"][1], markersize=11, label="이 컴퓨터에 있다")
    axes.plot([], [], "s", color=PARTS["배포"][1], markersize=11, label="이 컴퓨터에 없다")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.08), ncols=2, frameon=False)
    axes.set(xlim=(-0.5, 3.5), ylim=(-1.45, 1.6))
    axes.axis("off")
    plt.close(fig)
    return fig


def _box(
    axes, middle: tuple, size: tuple, title: str, product: str, colour: str, note: str | None, line: str = "-",
) -> None:  # fmt: skip
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = middle, size
    style = "round,pad=0,rounding_size=0.06"
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=colour, ec="#555555", ls=line))
    lines = [(title, 8.5, "#444444"), (product, 10, "#000000"), *([(note, 7.5, "#444444")] if note else [])]
    step = 0.24 if len(lines) < 3 else 0.21
    for i, (text, points, ink) in enumerate(lines):
        axes.text(x, y + step * ((len(lines) - 1) / 2 - i), text, ha="center", va="center", fontsize=points, color=ink)


def _arrow(axes, start: tuple, end: tuple, style: str = "-|>", line: str = "-") -> None:
    axes.annotate(
        "", (end[0] - WIDTH / 2, end[1]), (start[0] + WIDTH / 2, start[1]),
        arrowprops={"arrowstyle": style, "color": "#777777", "ls": line, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def _behind(name: str) -> set[str]:
    """Every stage that this one stands on, directly or not."""
    return {found for one in STAGES[name].inputs for found in {one} | _behind(one)}


def _readers(name: str) -> list[str]:
    return [stage.name for stage in STAGES.values() if name in stage.inputs]


def _depth(name: str) -> int:
    return 1 + max(map(_depth, STAGES[name].inputs)) if STAGES[name].inputs else 0


def _colour(week: int) -> str:
    return next((colour for weeks, colour in PARTS.values() if week in weeks), "#eeeeee")
