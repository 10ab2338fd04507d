"""Two pictures of week 3: a syllable as a number, and the cuts of several tokenizers over one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from workshop_lib import display, hangul
from workshop_lib.segmentation import Segmenter, morphemes, particle_boundaries


def syllable(char: str):
    """A syllable's initial, vowel and final marked in their strips, with the arithmetic as the title. Returns a Figure."""
    plt = display.pyplot()
    parts = hangul.decompose(char)
    places = [hangul.INITIALS.index(parts[0]), hangul.VOWELS.index(parts[1]), hangul.FINALS.index(parts[2])]
    figure, axes = plt.subplots(figsize=(9, 2.1))
    for row, (name, strip, place) in enumerate(zip(("초성", "중성", "종성"), (hangul.INITIALS, hangul.VOWELS, hangul.FINALS), places)):
        axes.text(-1.2, -row, f"{name} {len(strip)}", ha="right", va="center")
        for column, jamo in enumerate(strip):
            chosen = column == place
            box = {"boxstyle": "round,pad=0.2", "facecolor": "#ffcf70" if chosen else "#eef2f6", "edgecolor": "none"}
            axes.text(column, -row, jamo or "∅", ha="center", va="center", fontsize=11, bbox=box)
    first, vowel, final = places
    code = hangul.FIRST_SYLLABLE + (first * 21 + vowel) * 28 + final
    axes.set_title(f"{char} = 0xAC00 + ({first} × 21 + {vowel}) × 28 + {final} = 0x{code:X}")
    axes.set_xlim(-4, 28.5)
    axes.set_ylim(-2.6, 0.6)
    axes.axis("off")
    plt.close(figure)
    return figure


def boundaries(text: str, segmenters: Sequence[Segmenter]):
    """The tokens of each tokenizer as boxes over the characters of `text`; dashed lines where a particle or an ending begins.

    The first row is the morpheme analyser's. A character that is cut into several tokens has a hatched box. Returns a Figure.
    """
    plt = display.pyplot()
    rows = [("형태소", [span for span, _ in morphemes(text)])]
    rows += [(segmenter.name, segmenter.spans(text)) for segmenter in segmenters]
    figure, axes = plt.subplots(figsize=(max(6, 0.42 * len(text) + 1.5), 0.5 * len(rows) + 0.6))
    for row, (name, spans) in enumerate(rows):
        axes.text(-0.4, -row, name, ha="right", va="center")
        drawn = sorted({span for span in spans if span[0] < span[1]})
        for number, (start, end) in enumerate(drawn):
            cut = sum(a < end and start < b for a, b in spans) > 1
            colour = display.CHIP_COLOURS[number % len(display.CHIP_COLOURS)]
            axes.barh(-row, end - start - 0.08, 0.72, start + 0.04, color=colour, hatch="///" if cut else None, edgecolor="#999999", lw=0.4)
        for place, char in enumerate(text):
            axes.text(place + 0.5, -row, char, ha="center", va="center", fontsize=11)
    for place in particle_boundaries(text):
        axes.axvline(place, color="#c0392b", linestyle="--", linewidth=1)
    axes.set_xlim(-0.2, len(text) + 0.1)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.axis("off")
    plt.close(figure)
    return figure
