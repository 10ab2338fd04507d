"""Labelled reviews for week 6: the bundled ones, real NSMC, or a learner's own file; what is wrong is told with file and line.

A row is {"id", "document", "label"} with label 0 (negative) or 1 (positive), as in NSMC.

Notable choices
- What is measured on was never trained on: a held-out text that also stands in the training file (1,571 of NSMC's) is left out
  of both, and texts that stand there twice, or with two labels, count once or not at all.
- NSMC has eight empty reviews; a file in which more than one row in a thousand is empty is broken.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

from workshop_lib import WorkshopError
from workshop_lib.corpora import load, public
from workshop_lib.corpora.reading import INVISIBLE, Loaded, read_json_lines, read_table
from workshop_lib.corpora.reviews import reviews

LABELS = ("부정", "긍정")
EMPTY_SHARE = 1e-3  # of a file's rows: as many as NSMC has, with room to spare


def read_labelled(path: Path | str) -> list[dict]:
    """The rows of one labelled file: .txt or .tsv (tabs), .csv, or .jsonl, with the columns id, document, label.

    Raises WorkshopError with file and line for the first empty text, label other than 0 and 1, missing column, broken or
    cut-off line, and for a file without rows.
    """
    path = Path(path)
    if path.suffix not in (".txt", ".tsv", ".csv", ".jsonl"):
        raise WorkshopError(f"{path}: 라벨이 붙은 자료로 읽을 수 없는 형식이다. .txt, .tsv, .csv, .jsonl 가운데 하나로 준다.")
    skipped: list = []
    if path.suffix == ".jsonl":
        numbered: Iterable[tuple[int, dict]] = read_json_lines(path, skipped)
    else:
        numbered = read_table(path, ("id", "document", "label"), skipped, "," if path.suffix == ".csv" else "\t")
    rows = []
    for number, row in numbered:
        _stop_at(skipped)
        where = f"{path} {number}번째 줄"
        if missing := [key for key in ("document", "label") if key not in row]:
            raise WorkshopError(f"{where}: {', '.join(missing)} 열이 없다. 있는 열은 {', '.join(map(str, row))}이다.")
        if not isinstance(row["document"], str) or not row["document"].strip(INVISIBLE):
            raise WorkshopError(f"{where}: 글이 비었다. 그 줄을 지우거나 글을 채운다.")
        if isinstance(row["label"], bool) or str(row["label"]).strip() not in ("0", "1"):
            raise WorkshopError(f"{where}: 라벨이 0이나 1이 아니라 '{row['label']}'이다. 부정은 0, 긍정은 1로 적는다.")
        rows.append({"id": str(row.get("id", number)), "document": row["document"], "label": int(row["label"])})
    _stop_at(skipped)
    if not rows:
        raise WorkshopError(f"{path}: 라벨이 붙은 행이 하나도 없다.")
    return rows


def _stop_at(skipped: list) -> None:
    if skipped:
        raise WorkshopError(f"{skipped[0]}. 그 줄을 고치거나 지운다.")


def nsmc(data: Path | str, split: str) -> list[dict]:
    """NSMC's reviews, without its few empty ones.

    Raises WorkshopError with file and line for any other row that cannot be used, and where more than 0.1 % are empty.
    """
    loaded = public.nsmc(data, split)
    broken = [skip for skip in loaded.skipped if not _empty(skip.reason)]
    if broken or len(loaded.skipped) > EMPTY_SHARE * loaded.read:
        first = (broken or loaded.skipped)[0]
        more = f" 그런 줄이 모두 {len(broken or loaded.skipped):,}개이다." if len(broken or loaded.skipped) > 1 else ""
        raise WorkshopError(f"{first}.{more} 그 줄을 고치거나 지우거나, 파일을 다시 내려받는다.")
    _check_both_labels(loaded, data, split)
    return loaded.rows


def _empty(reason: str) -> bool:
    return reason.startswith("빈 ")


def _check_both_labels(loaded: Loaded, data: Path | str, split: str) -> None:
    if len(labels := {row["label"] for row in loaded.rows}) < 2:
        only = f"라벨 {LABELS[labels.pop()]}뿐이다" if labels else "쓸 수 있는 행이 하나도 없다"
        raise WorkshopError(f"{Path(data) / 'nsmc' / f'ratings_{split}.txt'}: {only}. 파일이 잘렸는지 확인한다.")


def sentiment(data: Path | None, rows: int, held_out: int, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Training and held-out reviews, at most so many, shuffled: NSMC where the data folder has it, else the bundled ones.

    No text stands in both. Raises WorkshopError as `nsmc` does, and when one half of NSMC is missing.
    """
    if data is not None and (Path(data) / "nsmc").is_dir():
        train, test = nsmc(data, "train"), nsmc(data, "test")
    else:
        train, test = bundled(rows, held_out, seed)
    train, test = _unique(train), _unique(test)
    shared = {row["document"] for row in train} & {row["document"] for row in test}
    result = []
    for name, part, most in (("train", train, rows), ("test", test, held_out)):
        part = [row for row in part if row["document"] not in shared]
        random.Random(f"sentiment/{name}/{seed}").shuffle(part)
        result.append(part[:most])
    return result[0], result[1]


def unlabelled(data: Path | None, count: int, held_out: Iterable[dict], seed: int = 0) -> list[str]:
    """At most `count` training reviews without their labels, none of which stands in `held_out`."""
    measured = {row["document"] for row in held_out}
    rows = nsmc(data, "train") if data is not None and (Path(data) / "nsmc").is_dir() else reviews(count, seed + 1, "train")
    texts = sorted({row["document"] for row in rows} - measured)
    random.Random(f"unlabelled/{seed}").shuffle(texts)
    return texts[:count]


def bundled(rows: int, held_out: int, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """The course's own reviews: from the grammar, and half of the hand-written ones on either side.

    The grammar's held-out reviews combine known words in ways that training never saw.
    """
    written = [{key: row[key] for key in ("id", "document", "label")} for row in load("reviews")]
    halves = [[row for row in written if crc32(row["id"].encode()) % 2 == half] for half in (0, 1)]
    parts = []
    for half, count, split in ((halves[0], rows, "train"), (halves[1], held_out, "validation")):
        half = half[: count // 5]  # they are few, and must not crowd out the others where little is asked for
        parts.append(half + list(reviews(max(count - len(half), 0), seed, split)))
    return parts[0], parts[1]


def _unique(rows: list[dict]) -> list[dict]:
    """Each text once; none of those whose labels disagree."""
    labels: dict[str, set[int]] = {}
    for row in rows:
        labels.setdefault(row["document"], set()).add(row["label"])
    kept = {row["document"]: row for row in reversed(rows) if len(labels[row["document"]]) == 1}
    return [row for row in rows if kept.get(row["document"]) is row]
