"""How sure a share or a difference is: intervals, and the rule of one standard error."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.extras import require

CONFIDENCE = 0.95
"""Confidence level of all intervals of an evaluation."""

RESAMPLES = 2000
"""Draws of the bootstrap: an end of the interval moves by a few hundredths of its width by seed."""

MIN_QUESTIONS = 20
"""Questions below which no interval is shown and nothing is told: five that all go one way are luck
once in 16, and the bootstrap of a few equal ones has no width at all."""

_ROUNDING = 1e-9
"""One question lost is exactly one standard error."""


def too_few(questions: int) -> str | None:
    """Return why no interval of so many questions is shown; `None` where one is."""
    if questions >= MIN_QUESTIONS:
        return None
    return (
        f"{questions} question{'s are' if questions != 1 else ' is'} too few for an interval: "
        f"measure at least {MIN_QUESTIONS}"
    )


def shown_difference(difference: Sequence[float], questions: int) -> str:
    """Return a difference of accuracies in percentage points, with its interval if there is one.

    Args:
        difference: Mean, low end and high end, as shares.
        questions: Questions behind it.
    """
    mean, low, high = (100 * end for end in difference)
    interval = "" if too_few(questions) else f" ({low:+.1f} to {high:+.1f})"
    return f"{mean:+.1f}{interval}"


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


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference of two measurements of the same questions, with its 95 % interval.

    Questions are drawn with replacement, both measurements of a question together (percentile
    bootstrap, B. Efron 1979), so what makes a question hard for both does not widen the interval.
    scipy's `bootstrap` draws other numbers from a seed and interpolates between draws, so that the
    intervals of published reports would move.

    Args:
        ours: One value for each question.
        theirs: Values for the same questions in the same order; their mean is subtracted.
        seed: Seed of the resampling.

    Returns:
        Mean difference, low end, high end.

    Raises:
        ConfigurationError: There are no questions, or not as many on both sides.
    """
    if not ours or len(ours) != len(theirs):
        raise ConfigurationError(
            f"paired measurements need the same questions: got {len(ours)} and {len(theirs)}"
        )
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    draw = random.Random(seed).choices
    means = sorted(sum(draw(differences, k=count)) / count for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    low, high = means[int(tail * RESAMPLES)], means[int((1 - tail) * RESAMPLES) - 1]
    return sum(differences) / count, low, high


def is_above_zero(differences: Sequence[float]) -> bool:
    """Tell whether the mean of the differences, at least one, exceeds its standard error."""
    mean = fmean(differences)
    variance = max(0.0, fmean(x * x for x in differences) - mean * mean)
    return mean > math.sqrt(variance / max(1, len(differences) - 1)) + _ROUNDING
