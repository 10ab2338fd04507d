"""The course's own Korean corpora: bundled files, seeded generators, and readers for public data sets.

Everything under ``data/`` was written for this course and copied from nowhere (licence CC BY 4.0, datasheet in
``data/README.md``). This module only reads those files, so that importing it costs nothing:

    names()                  the bundled files
    load("encyclopedia")     one of them, as a list of dictionaries

Volume comes from the generators in the sibling modules (``stories``, ``prose``, ``reviews``, ``dialogue``,
``benchmarks``, ``reasoning``, ``crawl``), which share one signature, ``name(n, seed=0, split="train")``, and
yield dictionaries; ``public`` reads the real data sets in their original formats.
"""

import json
from pathlib import Path

from workshop_lib import WorkshopError

DATA = Path(__file__).parent / "data"


def names() -> list[str]:
    """Return the names of the bundled files, sorted, as ``load`` takes them."""
    return sorted(path.stem for path in DATA.glob("*.jsonl"))


def load(name: str) -> list[dict]:
    """Read the bundled file ``data/<name>.jsonl`` and return its rows in file order.

    Raises:
        WorkshopError: no such file, bytes that are not UTF-8, or a line that is not a JSON object.
    """
    if name not in names():
        raise WorkshopError(f"'{name}'이라는 이름의 말뭉치는 없다. 다음 가운데 하나를 고른다: {', '.join(names())}")
    path = DATA / f"{name}.jsonl"
    rows = []
    # Split the bytes, not the text: str.splitlines would also cut at U+2028 inside a document.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} {number}번째 줄"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise WorkshopError(f"{where}: UTF-8이 아닌 바이트가 있다({error.reason}). 파일을 다시 내려받는다.") from error
        except json.JSONDecodeError as error:
            raise WorkshopError(f"{where}: JSON 형식이 아니다({error.msg}). 그 줄을 고친다.") from error
        if not isinstance(row, dict):
            raise WorkshopError(f"{where}: JSON 객체가 아니라 {type(row).__name__}이다. 한 줄에 객체 하나를 둔다.")
        rows.append(row)
    return rows
