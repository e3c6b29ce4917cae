"""Whether rewards mean what they say: bins of a reliability diagram and the calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

BINS = 10
"""Tenths of the reward, as is customary."""


class ReliabilityBin(NamedTuple):
    """The answers whose rewards fall into one tenth."""

    said: float
    """Mean reward."""
    found: float
    """Share of right answers."""
    answers: int


def reliability(rewards: Sequence[float], right: Sequence[bool]) -> list[ReliabilityBin]:
    """Return the bins that hold answers, from low rewards to high ones.

    A reward on an edge counts to the bin above it, 1 to the last bin. (scikit-learn's
    `calibration_curve` does it the other way round, and does not count the answers of a bin.)

    Args:
        rewards: In [0, 1].
        right: One for each reward.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for reward, is_right in zip(rewards, right, strict=True):
        bins[min(int(reward * BINS), BINS - 1)].append((reward, is_right))
    return [
        ReliabilityBin(
            said=math.fsum(reward for reward, _ in members) / len(members),
            found=sum(is_right for _, is_right in members) / len(members),
            answers=len(members),
        )
        for members in bins
        if members
    ]


def calibration_error(rewards: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the expected calibration error, 0 to 1; `None` without answers.

    It is the mean over all answers of the distance between mean reward and share of right answers
    in their bin.
    """
    if not rewards:
        return None
    bins = reliability(rewards, right)
    return math.fsum(b.answers * abs(b.said - b.found) for b in bins) / len(rewards)
