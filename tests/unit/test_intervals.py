"""Wilson intervals against values worked out by hand."""

from __future__ import annotations

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import wilson_interval


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


def test_a_higher_confidence_is_wider() -> None:
    # z = 2.57583, z^2 = 6.63490: from 0 to 6.63490 / 16.63490
    assert wilson_interval(0, 10, confidence=0.99)[1] == pytest.approx(0.39885, abs=2e-5)


@pytest.mark.parametrize(
    ("right", "rows", "confidence", "says"),
    [
        pytest.param(-1, 10, 0.95, "right=-1", id="fewer-than-none"),
        pytest.param(11, 10, 0.95, "right=11", id="more-than-all"),
        pytest.param(1, 10, 1.0, "confidence", id="certainty"),
        pytest.param(1, 10, 0.0, "confidence", id="no-confidence"),
    ],
)
def test_values_out_of_range_are_refused(
    right: int, rows: int, confidence: float, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        wilson_interval(right, rows, confidence=confidence)
