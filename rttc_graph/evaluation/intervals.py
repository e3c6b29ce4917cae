"""How sure a share or a difference is: intervals, and the rule of one standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.extras import require

CONFIDENCE = 0.95
"""Of all intervals of an evaluation."""

_ROUNDING = 1e-9
"""One question lost is exactly one standard error."""


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, both ends in [0, 1].

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927),
    without continuity correction. Unlike the textbook interval it is neither empty nor outside
    [0, 1] at shares of 0 and 1, where small evaluations often end.

    Args:
        right: Successes, from 0 to `rows`.
        rows: Trials; with 0 nothing is known and the interval is [0, 1].

    Raises:
        ConfigurationError: `right` is out of its range, or scipy is not installed.
    """
    if not 0 <= right <= rows:
        raise ConfigurationError(f"right={right!r} must be from 0 to rows={rows!r}")
    if rows == 0:
        return 0.0, 1.0
    stats: Any = require("scipy.stats", extra="eval", purpose="intervals")
    interval = stats.binomtest(right, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def is_above_zero(differences: Sequence[float]) -> bool:
    """Tell whether the mean of the differences, at least one, exceeds its standard error."""
    mean = fmean(differences)
    variance = max(0.0, fmean(x * x for x in differences) - mean * mean)
    return mean > math.sqrt(variance / max(1, len(differences) - 1)) + _ROUNDING
