"""The pictures of the report card, each drawn from what a stage left behind; None where that is not there or not readable."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workshop_lib.report_tables import ALIGNED, ARCHITECTURES, METHODS, TASKS, finite, interval

OURS, OTHERS, BASE = "#1f77b4", "#9aa5b1", "#d95f02"
COLOURS = ("#9aa5b1", "#1f77b4", "#d95f02", "#e7298a", "#1b9e77", "#a6761d", "#6a3d9a")
NAMED = {"fp32": (-20, 8), "int8": (5, -12), "gguf": (5, -12), "int4_gptq": (5, 5), "int2_gptq": (5, 5), "student": (5, 5)}  # offsets


def rows_of(path: Path) -> list[dict]:
    """The rows of a JSON-lines file; empty if it is missing or cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)]


def svg(figure) -> str:
    """A figure as a data address (SVG, letters as shapes): it needs neither a file beside the page nor a font."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "workshop", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _sizes(folder: Path, metrics: Mapping):
    """Week 8: bits per character over file size, a point a way of making the model smaller."""
    rows = [row for row in rows_of(folder / "variants.jsonl") if finite(row.get("bytes")) and finite(row.get("bpc"))]
    if not rows:
        return None
    figure, axes = _axes(4)
    for row in rows:
        x, y, name = row["bytes"] / 1e6, row["bpc"], row.get("name")
        axes.plot(x, y, "o", color=BASE if name == "fp32" else OURS, alpha=0.75, zorder=3 if name == "fp32" else 2)
        if name in NAMED:
            axes.annotate(str(row.get("title", "")), (x, y), NAMED[name], textcoords="offset points", fontsize=8)
    axes.set(xlabel="크기(MB)", ylabel="BPC", xlim=(0, None))
    axes.margins(0.15)
    return figure


def _axes(height: float):
    from matplotlib.figure import Figure

    from workshop_lib.display import pyplot

    pyplot()  # fonts
    figure = Figure(figsize=(7, height), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _curves(metrics: Mapping, runs: Sequence[tuple], lines: Sequence[tuple] = ()):
    """Validation BPC over training tokens. runs: (rows, label, colour); lines: (metric, label, line style, colour)."""
    figure, axes = _axes(3.5)
    for rows, label, colour in runs:
        if points := [(row["tokens"], row["val_bpc"]) for row in rows if finite(row.get("tokens")) and finite(row.get("val_bpc"))]:
            axes.plot(*zip(*points), marker="o", markersize=4, color=colour, label=label)
    if not axes.lines:
        return None
    _levels(axes.axhline, metrics, lines)
    axes.set(xlabel="학습 토큰", ylabel="검증 BPC", ylim=(0 if lines else None, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e4:,g}만" if value else "0")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _bars(metrics: Mapping, names: Mapping[str, str], bars: Sequence[tuple], lines: Sequence[tuple] = ()):
    """Horizontal bars with their intervals, a group a name. bars: (metric with {}, label, colour), the first on top."""
    found = {name: label.rstrip(" ↑↓") for name, label in names.items() if finite(metrics.get(bars[0][0].format(name)))}
    if not found:
        return None
    figure, axes = _axes((0.16 + 0.15 * len(bars)) * len(found) + 1.1)
    width = 0.78 / len(bars)
    for turn, (pattern, label, colour) in enumerate(bars):
        places = [(place + width * (turn - (len(bars) - 1) / 2), pattern.format(name)) for place, name in enumerate(found)]
        drawn = [(y, key) for y, key in places if finite(metrics.get(key))]
        axes.barh([y for y, _ in drawn], [metrics[key] for _, key in drawn], 0.92 * width, color=colour, label=label)
        for y, key in drawn:
            axes.plot(interval(metrics, key) or (metrics[key],) * 2, (y, y), color="#222", linewidth=1.2)
    _levels(axes.axvline, metrics, lines)
    axes.set_yticks(range(len(found)), found.values())
    axes.set(xlabel="가는 선: 95 % 구간", xlim=(0, 1.02), ylim=(len(found) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _levels(draw: Callable, metrics: Mapping, lines: Sequence[tuple]) -> None:
    for key, label, style, colour in lines:
        if finite(metrics.get(key)):
            draw(metrics[key], label=label, linestyle=style, color=colour)


FIGURES: dict[str, tuple[str, Callable]] = {  # stage: what it shows; how it is drawn from the stage's folder and its metrics
    "comparison": ("구조마다 학습 토큰에 따른 검증 BPC", lambda folder, metrics: _curves(metrics, [
        ([row for row in rows_of(folder / "curves.jsonl") if row.get("name") == name], label, colour)
        for (name, label), colour in zip(ARCHITECTURES.items(), COLOURS)])),
    "base_model": ("학습 토큰에 따른 검증 BPC", lambda folder, metrics: _curves(metrics, [
        (rows_of(folder / "history.jsonl"), "우리 모델", OURS)], [
        ("uniform_bpc", "고르게 찍기", "-.", OTHERS), ("unigram_bpc", "유니그램", ":", OTHERS), ("ngram_bpc", "5-gram", "--", BASE)])),
    "task_model": ("미세조정 방법마다의 정확도와 95 % 구간", lambda folder, metrics: _bars(metrics, METHODS, [
        ("{}_accuracy", "미세조정", OURS)], [
        ("tfidf_accuracy", "TF-IDF", "--", BASE), ("majority_accuracy", "다수 라벨", ":", OTHERS)])),
    "evaluation": ("과제마다의 정확도와 95 % 구간", lambda folder, metrics: _bars(metrics, TASKS, [
        ("{}_accuracy", "미세조정한 분류기", OURS), ("{}_tfidf_accuracy", "TF-IDF", BASE), ("{}_majority_accuracy", "다수 라벨", OTHERS)])),
    "compression": ("모델의 크기와 문자당 비트", _sizes),
    "alignment": ("정렬 전과 후의 비율과 95 % 구간", lambda folder, metrics: _bars(metrics, ALIGNED, [
        ("{}_before", "정렬 전(SFT)", OTHERS), ("{}_after", "정렬 후(DPO)", OURS)])),
}  # fmt: skip
