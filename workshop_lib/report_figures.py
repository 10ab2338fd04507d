"""The pictures of the report card, each drawn from files that a stage left behind; None where they are not there or not readable."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from workshop_lib.report_tables import ARCHITECTURES, METHODS, TASKS, finite, interval
from workshop_lib.workspace import Workspace

OURS, OTHERS, BASE = "#1f77b4", "#9aa5b1", "#d95f02"
COLOURS = ("#9aa5b1", "#1f77b4", "#d95f02", "#e7298a", "#1b9e77", "#a6761d", "#6a3d9a")


def rows_of(path: Path) -> list[dict]:
    """The rows of a JSON-lines file; empty if it is missing or cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)]


def _axes(height: float = 3.2, columns: int = 1):
    from matplotlib.figure import Figure

    from workshop_lib.display import pyplot

    pyplot()  # fonts
    figure = Figure(figsize=(7, height), dpi=100, layout="constrained")
    return figure, figure.subplots(1, columns)


def _line(axes, rows: Sequence[dict], x: str, y: str, **style) -> bool:
    points = [(row[x], row[y]) for row in rows if finite(row.get(x)) and finite(row.get(y))]
    if points:
        axes.plot(*zip(*points), **style)
    return bool(points)


def _tokens(axes) -> None:
    axes.set(xlabel="학습 토큰", ylabel="검증 BPC")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e4:,g}만" if value else "0")


def _bars(axes, metrics: dict, keys: Sequence[tuple[str, str]], offset: float = 0.0, height: float = 0.7, **style) -> None:
    """Horizontal bars with their intervals; keys: (label, metric), the first on top."""
    for place, (_, key) in enumerate(keys):
        if finite(value := metrics.get(key)):
            axes.barh(place + offset, value, height, **style)
            style.pop("label", None)
            if ends := interval(metrics, key):
                axes.plot(ends, [place + offset] * 2, color="#222", linewidth=1.2)
    axes.set_yticks(range(len(keys)), [label for label, _ in keys])
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def learning_curve(space: Workspace, metrics: dict):
    """Week 5: validation BPC over training tokens, with the n-gram models as lines."""
    figure, axes = _axes()
    if not _line(axes, rows_of(space.path("base_model") / "history.jsonl"), "tokens", "val_bpc", marker="o", color=OURS, label="우리 모델"):
        return None
    for key, label, style in (("uniform_bpc", "고르게 찍기", "-."), ("unigram_bpc", "유니그램", ":"), ("ngram_bpc", "5-gram", "--")):
        if finite(metrics.get(key)):
            axes.axhline(metrics[key], linestyle=style, color=BASE if key == "ngram_bpc" else OTHERS, label=label)
    _tokens(axes)
    axes.set_ylim(0, None)
    axes.legend(ncols=2)
    return figure


def comparison_curves(space: Workspace, metrics: dict):
    """Week 4: the same for seven architectures of the same size."""
    rows, (figure, axes) = rows_of(space.path("comparison") / "curves.jsonl"), _axes()
    drawn = [
        _line(axes, [row for row in rows if row.get("name") == name], "tokens", "val_bpc", color=colour, label=label,
              linestyle="--" if name == "rnn" else "-", marker="o", markersize=3)
        for (name, label), colour in zip(ARCHITECTURES.items(), COLOURS)
    ]
    _tokens(axes)
    axes.legend(ncols=2, fontsize=8)
    return figure if any(drawn) else None


def methods(space: Workspace, metrics: dict):
    """Week 6: accuracy of every way of fine-tuning, with intervals, beside the baselines that read no model."""
    keys = [(label, f"{name}_accuracy") for name, label in METHODS.items() if finite(metrics.get(f"{name}_accuracy"))]
    if not keys:
        return None
    figure, axes = _axes(0.3 * len(keys) + 1.1)
    _bars(axes, metrics, keys, color=OURS)
    for key, label, style in (("tfidf_accuracy", "TF-IDF", "--"), ("majority_accuracy", "다수 라벨", ":")):
        if finite(metrics.get(key)):
            axes.axvline(metrics[key], linestyle=style, color=BASE, label=label)
    axes.set(xlabel="정확도 (가는 선: 95 % 구간)", xlim=(0, 1))
    axes.legend(loc="lower right", fontsize=8)
    return figure


def tasks(space: Workspace, metrics: dict):
    """Week 7: each task's classifier beside its baselines, with intervals."""
    found = {name: label for name, label in TASKS.items() if finite(metrics.get(f"{name}_accuracy"))}
    if not found:
        return None
    figure, axes = _axes(0.55 * len(found) + 1)
    for turn, (key, label, colour) in enumerate(
        (("", "미세조정한 분류기", OURS), ("tfidf_", "TF-IDF", BASE), ("majority_", "다수 라벨", OTHERS))
    ):
        keys = [(title, f"{name}_{key}accuracy") for name, title in found.items()]
        _bars(axes, metrics, keys, 0.26 * (turn - 1), 0.24, color=colour, label=label)
    axes.set(xlabel="정확도 (가는 선: 95 % 구간)", xlim=(0, 1))
    axes.legend(fontsize=8)
    return figure


def sizes(space: Workspace, metrics: dict):
    """Week 8: bits per character over file size, a point a way of making the model smaller."""
    rows = [row for row in rows_of(space.path("compression") / "variants.jsonl") if finite(row.get("bytes")) and finite(row.get("bpc"))]
    if not rows:
        return None
    figure, axes = _axes(4)
    whole = next((row["bpc"] for row in rows if row.get("name") == "fp32"), None)
    if whole:
        axes.axhline(whole, color=OTHERS, linestyle="--", linewidth=1)
    from matplotlib.ticker import ScalarFormatter

    taken: list[tuple[float, float]] = []
    first = ("fp32", "int8", "int4_gptq", "gguf", "student")  # these get their names before others
    for row in sorted(rows, key=lambda row: (row.get("name") not in first, row["bpc"], row["bytes"])):
        x, y = row["bytes"] / 1e6, row["bpc"]
        axes.plot(x, y, "o", color=BASE if row.get("name") == "fp32" else OURS, alpha=0.75)
        # Names that would lie on one another are left out: the table below has them all.
        if all(abs(x - u) > 0.14 * max(x, u) or abs(y - v) > 0.06 * max(y, v) for u, v in taken):
            below = row.get("name") == "gguf"
            axes.annotate(str(row.get("title", "")), (x, y), (5, -12 if below else 5), textcoords="offset points", fontsize=8)
            taken.append((x, y))
    axes.set(xlabel="크기(MB)", ylabel="BPC", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        for which in (axis.set_major_formatter, axis.set_minor_formatter):
            which(ScalarFormatter())
        axis.set_tick_params(which="minor", labelsize=7)
    axes.margins(x=0.2)
    return figure


def before_after(space: Workspace, metrics: dict):
    """Week 9: what alignment changed, with intervals."""
    labels = {"dpo_pref_accuracy": "선호 정확도", "preferred": "바람직한 답", "polite": "공손한 답", "right": "내용이 맞는 답",
              "refusal_rate_private": "남의 정보 거절", "refusal_rate_own": "자기 정보 거절"}  # fmt: skip
    found = {key: label for key, label in labels.items() if finite(metrics.get(f"{key}_after"))}
    if not found:
        return None
    figure, axes = _axes(0.45 * len(found) + 1)
    for turn, (when, label, colour) in enumerate((("before", "정렬 전(SFT)", OTHERS), ("after", "정렬 후(DPO)", OURS))):
        keys = [(title, f"{key}_{when}") for key, title in found.items()]
        _bars(axes, metrics, keys, 0.36 * turn - 0.18, 0.34, color=colour, label=label)
    axes.set(xlabel="비율 (가는 선: 95 % 구간)", xlim=(0, 1.02))
    axes.legend(fontsize=8)
    return figure


def preference_curves(space: Workspace, metrics: dict):
    """Week 9: what DPO does to the two answers of a pair, beside imitation and a large step of the bare objective."""
    rows, (figure, (left, right)) = rows_of(space.path("alignment") / "curves.jsonl"), _axes(3, 2)
    runs = (("dpo", "DPO", OURS), ("imitation", "모방만", OTHERS), ("plain", "DPO 항만", BASE))
    drawn = []
    for name, label, colour in runs:
        mine = [row for row in rows if row.get("run") == name]
        if name != "imitation":  # it has no preference term: its margin is zero by definition
            drawn.append(_line(left, mine, "step", "margin", color=colour, label=label))
        _line(right, mine, "step", "chosen", color=colour, label=f"{label}: 고른 답")
        _line(right, mine, "step", "rejected", color=colour, linestyle=":", label=f"{label}: 버린 답")
    left.set(xlabel="걸음", ylabel="마진")
    right.set(xlabel="걸음", ylabel="로그 확률의 변화(nat)")
    left.legend(fontsize=8)
    right.legend(fontsize=7)
    return figure if any(drawn) else None


FIGURES: dict[str, tuple[tuple[str, Callable], ...]] = {  # stage: (what it shows, how it is drawn)
    "comparison": (("구조마다 학습 토큰에 따른 검증 BPC", comparison_curves),),
    "base_model": (("학습 토큰에 따른 검증 BPC", learning_curve),),
    "task_model": (("미세조정 방법마다의 정확도와 95 % 구간", methods),),
    "evaluation": (("과제마다의 정확도와 95 % 구간", tasks),),
    "compression": (("모델의 크기와 문자당 비트", sizes),),
    "alignment": (("정렬 전과 후, 95 % 구간", before_after), ("선호 학습의 걸음마다", preference_curves)),
}


def svg(figure) -> str:
    """A figure as a data address (SVG, letters as shapes): it needs neither a file beside the page nor a font."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "workshop", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()
