"""How sure a difference is: the paired bootstrap.

scipy's `bootstrap` draws other numbers from a seed and interpolates between draws, so the intervals
of published reports would move (decision 0023). These are its six lines, on the seed that they
were made with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import CONFIDENCE

RESAMPLES = 2000
"""The ends of the interval then move by a few hundredths of its width from seed to seed."""


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference of two measurements of the same questions, with its 95 % interval.

    Questions are drawn with replacement, both measurements of a question together (percentile
    bootstrap, B. Efron 1979), so what makes a question hard for both does not widen the interval.

    Args:
        ours: One value for each question.
        theirs: The same questions in the same order; their mean is subtracted.
        seed: Of the draws.

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
