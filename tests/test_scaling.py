"""Fits find laws that are there, and the small experiments report what happened."""

from dataclasses import replace

import numpy as np
import pytest
from test_pretraining import TINY, VOCABULARY, documents, tokens

from workshop_lib import WorkshopError, packing, pretraining, scaling

SIZES = np.array([1e5, 2e5, 4e5, 8e5, 1.6e6])


def test_a_power_law_is_found_and_predicts_within_its_interval():
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(5))
    law = scaling.fit_power_law(SIZES, 20 * SIZES**-0.2 * noise)
    assert law.exponent == pytest.approx(0.2, abs=0.02) and law.floor == 0
    low, high = law.interval(6.4e6)
    assert low[0] < 20 * 6.4e6**-0.2 < high[0] and high[0] - low[0] < 0.15


def test_a_floor_is_found_where_there_is_one_and_a_line_overshoots():
    truth = lambda n: 1.9 + 900 * n**-0.55  # noqa: E731
    bent = scaling.fit_power_law(SIZES, truth(SIZES), with_floor=True)
    assert bent.floor == pytest.approx(1.9, abs=0.05) and bent(1e7) == pytest.approx(truth(1e7), abs=0.03)
    straight = scaling.fit_power_law(SIZES, truth(SIZES))
    assert straight(1e7) < truth(1e7) - 0.1


def test_a_measured_scatter_widens_the_interval():
    losses = 20 * SIZES**-0.2
    narrow, wide = (scaling.fit_power_law(SIZES, losses, scatter=s).interval(3.2e6) for s in (0.001, 0.02))
    assert wide[1] - wide[0] > 10 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("sizes, losses", [([1, 2], [3, 2]), ([1, 2, 3], [3, 2, -1]), ([1, 1, 1], [3, 2, 1])])
def test_too_little_to_fit_is_refused(sizes, losses):
    with pytest.raises(WorkshopError, match="세 쌍|3쌍"):
        scaling.fit_power_law(sizes, losses)


def test_sweep_and_range_test_report_each_rate(tmp_path):
    rows = [packing.Encoded((1, *(9 + i % 40 for i in range(k, k + 20)), 2), 20, "s") for k in range(len(documents(8)))]
    validation = packing.validation_windows(rows, TINY.context)
    make = lambda: pretraining.new_model(TINY, VOCABULARY).cpu()  # noqa: E731
    found = scaling.sweep(make, tokens(), TINY, [1e-4, 3e-3], validation)
    assert [row["rate"] for row in found] == [1e-4, 3e-3] and found[1]["losses"][-1] < found[0]["losses"][-1]
    tested = scaling.range_test(make(), tokens(), replace(TINY, steps=30), low=1e-5, high=10.0, steps=30)
    assert tested[0]["rate"] == pytest.approx(1e-5) and len(tested) <= 30
    assert min(row["loss"] for row in tested) < tested[0]["loss"]
