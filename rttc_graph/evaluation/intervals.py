"""How sure a share or a difference is: intervals, and the rule of one standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

from rttc_graph.errors import ConfigurationError

_ROUNDING = 1e-9
"""One question lost is exactly one standard error."""


def wilson_interval(right: int, rows: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, both ends in [0, 1].

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927),
    without continuity correction. Unlike the textbook interval it is neither empty nor outside
    [0, 1] at shares of 0 and 1, where small evaluations often end.

    Args:
        right: Successes, from 0 to `rows`.
        rows: Trials; with 0 nothing is known and the interval is [0, 1].
        confidence: Above 0 and below 1.

    Raises:
        ConfigurationError: A value is out of its range.
    """
    if not 0 <= right <= rows:
        raise ConfigurationError(f"right={right!r} must be from 0 to rows={rows!r}")
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence={confidence!r} must be above 0 and below 1")
    if rows == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / rows
    scale = 1 + z * z / rows
    centre = (share + z * z / (2 * rows)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def is_above_zero(differences: Sequence[float]) -> bool:
    """Tell whether the mean of the differences, at least one, exceeds its standard error."""
    mean = fmean(differences)
    variance = max(0.0, fmean(x * x for x in differences) - mean * mean)
    return mean > math.sqrt(variance / max(1, len(differences) - 1)) + _ROUNDING
