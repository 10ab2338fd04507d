"""Curves say what the counters and histograms say: against real Prometheus text, hand-made cases and the observations themselves."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from workshop_lib import WorkshopError, drift, monitoring
from workshop_lib.monitoring import Scrape, curves, histogram_quantile, increase, read
from workshop_lib.traffic import Call, Outcome, Replay

BOUNDS = (0.1, 0.5, 1.0, 5.0, math.inf)


@given(st.lists(st.integers(0, 5), max_size=30), st.sets(st.integers(1, 29)))
def test_increase_counts_each_event_once_also_through_restarts(steps, restarts):
    """A process counts from 0, is scraped, and may be started anew; what happened before its first scrape after that still counts."""
    counter, seen = 0, [0]
    for place, step in enumerate(steps):
        if place in restarts and step < seen[-1]:  # else the fall could not be seen
            counter = 0
        counter += step
        seen.append(counter)
    assert increase(seen) == sum(steps)


def test_increase_of_little():
    assert increase([]) == increase([7.0]) == 0 and increase([3, 5, 1, 1, 4]) == 2 + 1 + 0 + 3


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, share):
    buckets = {bound: sum(value <= bound for value in values) for bound in BOUNDS}
    true = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    place = next(place for place, bound in enumerate(BOUNDS) if true <= bound)
    found = histogram_quantile(share, buckets)
    low = BOUNDS[place - 1] if place else 0.0
    assert found == BOUNDS[-2] if BOUNDS[place] == math.inf else low <= found <= BOUNDS[place]


@given(st.lists(st.integers(0, 9), min_size=5, max_size=5), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_quantiles_rise_with_their_share_and_fill_a_bucket_evenly(counts, shares):
    buckets = dict(zip(BOUNDS, np.cumsum(counts).tolist()))
    found = [histogram_quantile(share, buckets) for share in sorted(shares)]
    assert all(map(math.isnan, found)) if not sum(counts) else found == sorted(found)


def test_quantiles_as_prometheus_gives_them():
    """The example of its documentation's kind: 10 in the first bucket, 20 in the second, 10 beyond the last bound."""
    buckets = {math.inf: 40, 1.0: 10, 3.0: 30}  # the order is of no account
    assert [histogram_quantile(share, buckets) for share in (0.125, 0.25, 0.5, 0.75, 0.9)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert histogram_quantile(0.5, {1.0: 0, 2.0: 4, math.inf: 4}) == 1.5
    assert math.isnan(histogram_quantile(0.5, {1.0: 0, math.inf: 0})) and math.isnan(histogram_quantile(0.5, {math.inf: 3}))
    for share, wrong in ((1.5, buckets), (0.5, {1.0: 3})):
        with pytest.raises(WorkshopError):
            histogram_quantile(share, wrong)


def test_real_prometheus_text_is_read_with_its_labels():
    registry = CollectorRegistry()
    counter = Counter("workshop_requests", "words # and \\ signs", ("route", "status"), registry=registry)
    histogram = Histogram("workshop_request_seconds", "seconds", ("route",), buckets=(0.1, 1), registry=registry)
    for route, status, seconds in (("/a", "200", 0.05), ("/a", "429", 0.5), ('/b"{x}', "200", 5)):
        counter.labels(route, status).inc()
        histogram.labels(route).observe(seconds)
    scrape = read(generate_latest(registry).decode("utf-8"), 3.0)
    name = "workshop_requests_total"
    assert (scrape.total(name), scrape.total(name, status="200"), scrape.total(name, route='/b"{x}', status="200")) == (3, 2, 1)
    assert scrape.total("none") == 0 and scrape.total("workshop_requests") == 0
    assert scrape.buckets("workshop_request_seconds") == {0.1: 1, 1.0: 2, math.inf: 3} and scrape.at == 3.0
    with pytest.raises(WorkshopError, match="Prometheus"):
        read("<html>not { metrics</html>")


def scrape(at, done, refused=0, tokens=0, queue=0, waits=()):
    values = {
        ("workshop_requests_total", frozenset({("route", "/v1/completions"), ("status", "200")})): done,
        ("workshop_requests_total", frozenset({("route", "/v1/completions"), ("status", "429")})): refused,
        ("workshop_tokens_total", frozenset({("kind", "completion")})): tokens,
        ("workshop_tokens_total", frozenset({("kind", "prompt")})): 1e6,
        ("workshop_queue_length", frozenset()): queue,
    } | {("workshop_request_seconds_bucket", frozenset({("le", str(bound))})): sum(wait <= bound for wait in waits) for bound in BOUNDS}
    return Scrape(at, values)


def test_curves_look_back_one_window():
    waits = [0.3] * 10 + [0.7] * 30
    first, second = scrape(0, 0), scrape(1, 10, tokens=50, queue=4, waits=waits[:10])
    scrapes = [first, second, scrape(2, 30, 10, 250, 0, waits), scrape(4, 30, 10, 250, 1, waits)]
    found = curves(scrapes, window=1.0)
    assert found["time"].tolist() == [1, 2, 4] and found["queue"].tolist() == [4, 0, 1]
    assert found["requests_per_s"].tolist() == [10, 30, 0] and found["refused_per_s"].tolist() == [0, 10, 0]
    assert found["tokens_per_s"].tolist() == [50, 200, 0]
    assert found["p50"][:2] == pytest.approx([0.3, 0.75]) and math.isnan(found["p50"][2])  # by the buckets' bounds, 0.1–0.5 and 0.5–1
    assert curves(scrapes, window=2.0)["requests_per_s"].tolist() == [10, 20, 0]
    assert all(len(curve) == 0 for curve in curves(scrapes[:1]).values())


def test_the_figure_marks_phases_and_the_alarm():
    rng = random.Random(0)
    calls = [Call(place / 10, "가", "한가함" if place < 60 else "낯선 입력") for place in range(90)]
    found = Replay([Outcome(call, call.at, 0.1, "ok", 3) for call in calls], [scrape(place, 10 * place) for place in range(10)])
    alarm = drift.calibrate([rng.gauss(6, 1) for _ in range(100)], horizon=100)
    bits = [rng.gauss(6 if place < 60 else 12, 1) for place in range(90)]
    picture = monitoring.figure(found, bits, alarm)
    assert len(picture.axes) == 6 and len(monitoring.figure(found).axes) == 4
    assert {text.get_text() for text in picture.axes[0].texts} == {"한가함", "낯선 입력"}
    marked = [line for line in picture.axes[5].get_lines() if line.get_label() == "경보"]
    assert 60 <= 10 * marked[0].get_xdata()[0] < 75
