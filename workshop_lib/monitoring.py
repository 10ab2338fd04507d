"""What a server's /metrics say over time: Prometheus' text, counters as rates, histograms as quantiles, and a figure.

The curves come from /metrics alone, as Prometheus would draw them from the same numbers. Prometheus and Grafana take over what is left
out here: storage, many servers, alerts by mail (docker/serve/README.md).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workshop_lib import WorkshopError, display

if TYPE_CHECKING:
    from workshop_lib.drift import Alarm
    from workshop_lib.traffic import Replay


@dataclass(frozen=True)
class Scrape:
    """What /metrics said at a time (seconds from the start): (name, labels) → value."""

    at: float
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that have these labels."""
        return sum(value for (other, has), value in self.values.items() if other == name and labels.items() <= dict(has).items())

    def buckets(self, name: str) -> dict[float, float]:
        """Upper bound → cumulative count of a histogram, summed over its other labels, in order of the bounds."""
        found: dict[float, float] = {}
        for (other, has), value in self.values.items():
            if other == f"{name}_bucket":
                bound = float(dict(has)["le"])
                found[bound] = found.get(bound, 0.0) + value
        return dict(sorted(found.items()))


def read(text: str, at: float = 0.0) -> Scrape:
    """Prometheus' text format. Raises WorkshopError where it is none."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, KeyError, IndexError) as error:
        raise WorkshopError(f"Prometheus 형식이 아니다({error}): {text[:60]!r}. /metrics의 주소를 확인한다.") from error
    return Scrape(at, {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})


def increase(values: Sequence[float]) -> float:
    """How much a counter rose over its samples. Where it fell, the process was started anew and has counted from 0 since."""
    return sum((after - before if after >= before else after) for before, after in zip(values, values[1:]))


def histogram_quantile(share: float, buckets: Mapping[float, float]) -> float:
    """The value that this share of the observations does not exceed, by a histogram (as the function of that name in PromQL).

    buckets: upper bound → how many observations are no greater, the last bound inf. Inside a bucket the observations are taken
    to be spread evenly; the first one begins at 0. In the last one, of which only the lower bound is known, it is that bound.
    nan without observations. Raises WorkshopError for a share outside [0, 1] or buckets without inf.
    """
    if not 0 <= share <= 1 or math.inf not in buckets:
        raise WorkshopError(f"비율은 0에서 1 사이이고 통의 마지막 경계는 inf여야 한다. 받은 값: {share}, {list(buckets)}")
    bounds = sorted(buckets)
    counts = [buckets[bound] for bound in bounds]
    if not counts[-1] > 0:
        return math.nan
    place = bisect.bisect_left(counts, share * counts[-1])
    if bounds[place] == math.inf:
        return bounds[place - 1] if place else math.nan
    low, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    return low + (bounds[place] - low) * ((share * counts[-1] - below) / inside if inside else 1.0)


def curves(scrapes: Sequence[Scrape], window: float = 1.0) -> dict[str, np.ndarray]:
    """What Prometheus would draw: counters as increase a second and quantiles of a histogram's increase, over the last `window` seconds.

    Arrays with an item a scrape but the first: time, requests_per_s (answered in any way), refused_per_s, queue, p50, p95 (seconds;
    nan where nothing ended), tokens_per_s. A refusal is a request that ended at once: while a server refuses, its p50 falls.
    """
    rows = []
    for last in range(1, len(scrapes)):
        first = last - 1
        while first and scrapes[first - 1].at >= scrapes[last].at - window:
            first -= 1
        part = scrapes[first : last + 1]
        counted = [scrape.buckets("workshop_request_seconds") for scrape in part]
        rose = {bound: increase([buckets.get(bound, 0.0) for buckets in counted]) for bound in counted[-1]}
        p50, p95 = (histogram_quantile(share, rose) if rose else math.nan for share in (0.5, 0.95))
        rows.append((
            part[-1].at, _rate(part, "workshop_requests_total"), _rate(part, "workshop_requests_total", status="429"),
            part[-1].total("workshop_queue_length"), p50, p95, _rate(part, "workshop_tokens_total", kind="completion"),
        ))  # fmt: skip
    names = ("time", "requests_per_s", "refused_per_s", "queue", "p50", "p95", "tokens_per_s")
    return dict(zip(names, np.array(rows).T if rows else np.empty((len(names), 0)), strict=True))


def _rate(scrapes: Sequence[Scrape], name: str, **labels: str) -> float:
    return increase([scrape.total(name, **labels) for scrape in scrapes]) / (scrapes[-1].at - scrapes[0].at)


def figure(found: Replay, bits: Sequence[float] | None = None, alarm: Alarm | None = None):
    """The curves over time, the phases shaded; with `bits` (a number a call) and an alarm also how surprising the inputs are."""
    plt, drawn = display.pyplot(), curves(found.scrapes)
    names = ["요청/초", "기다리는 요청", "지연 시간 (초)", "토큰/초"] + (["문자당 비트", "누적합"] if alarm else [])
    picture, panels = plt.subplots(len(names), 1, sharex=True, figsize=(8, 1.5 * len(names)), layout="constrained")
    at = drawn["time"]
    panels[0].plot(at, drawn["requests_per_s"], label="끝난 요청"), panels[0].plot(at, drawn["refused_per_s"], "C3", label="거절")
    panels[1].plot(at, drawn["queue"])
    panels[2].plot(at, drawn["p50"], label="p50"), panels[2].plot(at, drawn["p95"], "C1", label="p95")
    panels[3].plot(at, drawn["tokens_per_s"])
    sent = [one.sent for one in found.outcomes]
    if alarm:
        panels[4].plot(sent, bits, "."), panels[5].plot(sent, alarm.curve(bits))
        panels[5].axhline(alarm.limit, color="C3", ls="--", label="한계")
        if (first := alarm.first(bits)) is not None:
            panels[5].axvline(sent[first], color="C3", label="경보")
    for panel, name in zip(panels, names):
        panel.set_ylabel(name)
        for number, phase in enumerate(dict.fromkeys(one.call.phase for one in found.outcomes)):
            times = [one.sent for one in found.outcomes if one.call.phase == phase]
            panel.axvspan(min(times), max(times), color=f"C{number}", alpha=0.08)
            if panel is panels[0]:
                panel.text(min(times), 1.02, phase, transform=panel.get_xaxis_transform(), fontsize=9)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="upper right", fontsize=8)
    panels[-1].set_xlabel("시작부터 (초)")
    plt.close(picture)  # shown as the cell's value, once
    return picture
