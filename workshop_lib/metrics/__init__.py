"""Metrics as modules of Hugging Face `evaluate`, loaded from this folder and without a network.

    from workshop_lib.metrics import load_metric
    load_metric("rouge").compute(predictions=[…], references=[…], by="morpheme")

accuracy, f1, exact_match, chrf, bleu, rouge: `NAME/NAME.py` is a thin `evaluate.Metric` around the function of the same name in
`scores`, where the arithmetic can be read. `evaluate` knows its own metrics by name only through the Hub; a folder it loads as it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib import WorkshopError

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The metrics that `load_metric` knows, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def load_metric(name: str) -> evaluate.EvaluationModule:
    """One of `names()` as an `evaluate` metric: `.compute(predictions=…, references=…)` gives a dictionary.

    Raises WorkshopError for a name that is not there.
    """
    if name not in names():
        raise WorkshopError(f"'{name}'이라는 지표는 없다. {', '.join(names())} 가운데 하나를 쓴다.")
    os.environ["HF_EVALUATE_OFFLINE"] = "1"  # HF_HUB_OFFLINE does not keep it from asking the Hub
    import evaluate

    evaluate.config.HF_EVALUATE_OFFLINE = True  # where it had been imported before
    return evaluate.load(str(FOLDER / name), keep_in_memory=True)
