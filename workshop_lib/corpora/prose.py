"""Prose in the register of the encyclopaedia and the newspaper: every written article first, then notices.

`data/encyclopedia.jsonl` and `data/news.jsonl` were written for the course one by one and are few; when more is asked
for, `notices` supplies volume in the same plain register. Whole articles go to one split by their title, notices by
what they are about, so nothing in "validation" has a twin in "train".
"""

from collections.abc import Iterator
from itertools import islice
from random import Random

from workshop_lib import WorkshopError
from workshop_lib.corpora import load, notices
from workshop_lib.corpora.combinations import SPLITS, split_of, stream

ARTICLES = ("encyclopedia", "news")


def articles(seed: int = 0, split: str = "train") -> list[dict]:
    """The written articles of one split, shuffled by `seed`."""
    if split not in SPLITS:
        raise WorkshopError(f"split은 {' 또는 '.join(SPLITS)}이어야 한다. 받은 값: {split!r}")
    rows = [row for name in ARTICLES for row in load(name) if split_of((name, row["title"])) == split]
    Random(f"prose/{split}/{seed}").shuffle(rows)
    return rows


def prose(n: int, seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Yield `n` documents {"id", "title", "text", "source"[, "topic"]}: articles, then generated notices ("notice").

    Raises WorkshopError for an unknown split or a negative `n`.
    """
    if n < 0:
        raise WorkshopError(f"문서 수 n은 0 이상이어야 한다. 받은 값: {n}")
    written = articles(seed, split)
    yield from islice(written, n)
    yield from stream("notice", max(0, n - len(written)), seed, split, notices.draw)
