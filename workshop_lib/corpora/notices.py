"""The small print of an invented province: weather, prices, timetables, lost umbrellas. Volume for `prose`.

Nineteen kinds of notice stand in `data/notices.txt` as slots with alternative sentences, and the words that may fill
them in `data/notices.json`; this module draws what one notice is about. Notable choices:

* What is drawn is coherent: percentages follow from the prices, the day's length from sunrise and sunset, crops and
  festivals from the month, the loser's score is the lower one.
* A notice's combination is (kind, town, subject); it decides the split (see `combinations`).
* Particles are set by `grammar.attach`, so a slot may hold any word.
"""

import re
from functools import cache
from random import Random

from workshop_lib.corpora import DATA
from workshop_lib.corpora.grammar import attach
from workshop_lib.corpora.notice_values import DAYS_IN_MONTH, KINDS, WEEKDAYS, Values, words

_SLOT = re.compile(r"\{(\w+)(?::([^}]+))?\}")


@cache
def templates() -> dict[str, tuple[list[str], list[tuple[bool, list[str]]]]]:
    """kind -> (titles, slots); a slot is (may be left out, its alternative sentences)."""
    kinds: dict[str, tuple[list[str], list[tuple[bool, list[str]]]]] = {}
    for line in (DATA / "notices.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            titles, slots = kinds[line.strip("[]")] = ([], [])
        elif line.startswith("="):
            titles.append(line[2:])
        elif line in ("--", "-?"):
            slots.append((line == "-?", []))
        else:
            slots[-1][1].append(line)
    return kinds


def fill(template: str, values: Values) -> str:
    """A template with its slots filled; `{item:은/는}` takes the right form of the particle."""

    def value(match: re.Match[str]) -> str:
        word = str(values[match[1]])
        return attach(word, match[2]) if match[2] else word

    return _SLOT.sub(value, template)


def draw(rng: Random, place: int) -> tuple[tuple, str, dict]:
    """One notice for `combinations.stream`: (combination, identity, row). Kinds take turns, so all come equally often."""
    kind = list(KINDS)[place % len(KINDS)]
    town = rng.choice(words()["towns"])
    month = rng.randint(1, 12)
    values: Values = {"town": town, "month": month, "part": rng.choice(("이른 아침", "오전", "한낮", "오후", "저녁"))}
    values["date"] = f"{month}월 {rng.randint(1, DAYS_IN_MONTH[month - 1])}일"
    values["weekday"] = rng.choice(WEEKDAYS)
    subject = KINDS[kind](rng, values)
    titles, slots = templates()[kind]
    sentences = [rng.choice(options) for optional, options in slots if not optional or rng.random() < 0.6]
    text = fill(" ".join(sentences), values)
    title = fill(rng.choice(titles), values)
    return (kind, town, subject), text, {"title": title, "text": text, "source": "notice"}
