"""Evaluation: benchmarks, metrics and the report."""

from __future__ import annotations

from workshop_lib.belief import Difference, McNemar, bootstrap_interval, mcnemar, paired_bootstrap, wilson_interval

__all__ = ["Difference", "McNemar", "bootstrap_interval", "mcnemar", "paired_bootstrap", "wilson_interval"]
