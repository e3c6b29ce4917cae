"""Intervals against values worked out by hand, and those that are published."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import paired_difference, wilson_interval


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        # z = 1.95996, z^2 = 3.84146. 8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half
        # 1.95996 / 1.38415 * sqrt(0.016 + 0.0096036) = 0.22657
        pytest.param(8, 10, 0.49016, 0.94332, id="eight-of-ten"),
        # centre (0.5 + 0.0192073) / 1.0384146 = 0.5, half 1.95996 / 1.0384146 *
        # sqrt(0.0025 + 0.000096036) = 0.096169
        pytest.param(50, 100, 0.40383, 0.59617, id="half-of-a-hundred"),
        # 0 of n: from 0 to z^2 / (n + z^2) = 3.84146 / 13.84146
        pytest.param(0, 10, 0.0, 0.27753, id="none"),
        # n of n: from n / (n + z^2) = 10 / 13.84146 to 1
        pytest.param(10, 10, 0.72247, 1.0, id="all"),
        pytest.param(0, 0, 0.0, 1.0, id="nothing-tried"),
    ],
)
def test_interval(right: int, rows: int, low: float, high: float) -> None:
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=2e-5)


@pytest.mark.parametrize(("right", "says"), [(-1, "right=-1"), (11, "right=11")])
def test_values_out_of_range_are_refused(right: int, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        wilson_interval(right, 10)


def test_the_intervals_of_the_published_report_come_out_again() -> None:
    report = Path(__file__).parents[2] / "docs" / "reports" / "four-data-sets" / "figures.json"
    groups = json.loads(report.read_text(encoding="utf-8"))["groups"]
    checked = 0
    for group in groups:
        for figures in group["policies"].values():
            right = round(figures["accuracy"] * group["rows"])
            assert wilson_interval(right, group["rows"]) == pytest.approx(
                tuple(figures["interval"]), abs=1e-8
            )
            checked += 1
    assert checked > 50


def test_the_draws_of_the_bootstrap_are_those_of_the_published_reports() -> None:
    """Written out from the release that made them; scipy's own draws end at -0.04 and 0.02."""
    draw = random.Random(150)
    ours = [float(draw.random() < 0.6) for _ in range(150)]
    theirs = [x if draw.random() < 0.9 else float(draw.random() < 0.6) for x in ours]
    found = paired_difference(ours, theirs)
    assert found == pytest.approx((-1 / 150, -5 / 150, 4 / 150), abs=1e-12)
