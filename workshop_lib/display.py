"""What a reader looks at: plots with Korean glyphs, and tokens as coloured chips.

HTML uses inline styles only (no scripts, no random ids), and everything shown has a text form of the same content, so that
it survives GitHub's rendering and strict comparison in CI.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Pale, and apart for the common kinds of colour blindness; text on them stays black.
CHIP_COLOURS = ("#cfe8ff", "#ffe3b3", "#d9f2d0", "#f6d5e5", "#e4dcf7")


@dataclass(frozen=True)
class Chips:
    """Token pieces shown as chips in a notebook and as 'a|b|c' in text."""

    pieces: tuple[str, ...]
    title: str = ""

    def __repr__(self) -> str:
        head = f"{self.title} ({len(self.pieces)}): " if self.title else ""
        return head + "|".join(_visible(piece) for piece in self.pieces)

    def _repr_html_(self) -> str:
        style = "display:inline-block;padding:1px 4px;margin:1px;border-radius:4px;color:#000;background:"
        spans = "".join(
            f'<span style="{style}{CHIP_COLOURS[i % len(CHIP_COLOURS)]}">{html.escape(_visible(piece))}</span>'
            for i, piece in enumerate(self.pieces)
        )
        head = f"<b>{html.escape(self.title)}</b> ({len(self.pieces)}) " if self.title else ""
        return f'<div style="line-height:2">{head}{spans}</div>'


@dataclass(frozen=True)
class Table:
    """Rows shown as an HTML table in a notebook and as aligned columns in text."""

    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...]

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(_width, column)) for column in zip(*lines)]
        return "\n".join("  ".join(pad(cell, w) for cell, w in zip(line, widths)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        def cells(row: Sequence[str], tag: str) -> str:
            return "".join(f'<{tag} style="text-align:left">{html.escape(cell)}</{tag}>' for cell in row)

        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        return f"<table><thead><tr>{cells(self.header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def chips(pieces: Sequence[str], title: str = "") -> Chips:
    """Token pieces as coloured chips; a space shows as ␣, a line break as ⏎."""
    return Chips(tuple(pieces), title)


def table(rows: Sequence[dict[str, object]]) -> Table:
    """Dicts of the same keys as a table; floats with up to four significant digits."""
    header = tuple(rows[0]) if rows else ()
    return Table(tuple(tuple(number(row.get(key, "")) for key in header) for row in rows), header)


def number(value: object) -> str:
    """A value as a reader wants it: 1,234 · 0.1235 · 12.3 · text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def progress(iterable=None, **options):
    """A tqdm bar that leaves nothing behind. `TQDM_DISABLE` hides it, which tqdm's notebook bar itself does not heed."""
    from tqdm.auto import tqdm

    hidden = options.pop("disable", False) or bool(os.environ.get("TQDM_DISABLE")) or None  # None: only where a person looks
    return tqdm(iterable, leave=False, disable=hidden, **options)


def pyplot():
    """`matplotlib.pyplot`, set up for Korean: a font with Hangul and quiet defaults.

    The font comes with a package of the course; without it a system font is tried, and without that labels fall back
    to matplotlib's own font (Hangul then shows as boxes).
    """
    import matplotlib.pyplot as plt
    from matplotlib import font_manager

    from workshop_lib.environment import korean_font

    names = {font.name for font in font_manager.fontManager.ttflist}
    if (path := korean_font()) and "NanumGothic" not in names:
        font_manager.fontManager.addfont(path)
        names.add("NanumGothic")
    known = ("NanumGothic", "Noto Sans CJK KR", "Noto Sans KR", "Malgun Gothic", "AppleGothic", "Apple SD Gothic Neo")
    plt.rcParams["font.family"] = [name for name in known if name in names][:1] + ["DejaVu Sans"]
    plt.rcParams.update({
        "axes.unicode_minus": False,
        "figure.figsize": (7, 3.5),
        "figure.dpi": 90,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
    })
    return plt


def plain_logs(axes) -> None:
    """Write the ticks of logarithmic axes as 0.001, 1000 (powers need a minus sign that Korean fonts lack)."""
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
            axis.set_minor_formatter("")


def pad(text: str, width: int) -> str:
    """Text filled with spaces to `width` columns of a terminal, where a Korean character takes two."""
    return text + " " * (width - _width(text))


def _visible(piece: str) -> str:
    if re.fullmatch("<[0-9A-F]{2}( [0-9A-F]{2})*>", piece):  # bytes in hexadecimal: the spaces only keep them apart
        return piece
    return piece.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def _width(text: str) -> int:
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
