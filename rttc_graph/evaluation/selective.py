"""Selective answering: how many answers are right if only those of high reward are given.

The answers are those of the gate in force; what moves is the reward from which on one is given. An
answer to a question that has none is wrong, and an "I do not know" is never given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from typing_extensions import TypedDict

from rttc_graph.evaluation.replay import ReplayedRun

MAX_POINTS = 100
"""Most points of a curve in the figures; the area is that of all of them."""


class SelectivePoint(TypedDict):
    """Effect of a threshold of the reward."""

    tau_r: float
    answered: float
    """Share of the questions that are answered."""
    accuracy: float
    """Share of right ones among these."""
    declined: float | None
    """Share of the questions without an answer that are declined; `None` if there are none."""


class SelectiveFigures(TypedDict):
    """The curve over all thresholds, and the area under it."""

    area: float
    """Mean accuracy over all shares of answered questions, from one question to all, the surest
    first; what is never given comes last and is wrong."""
    best_area: float
    """The area if every right answer had a higher reward than every wrong one."""
    points: list[SelectivePoint]
    """Points by falling threshold."""


def selective(runs: Sequence[ReplayedRun]) -> SelectiveFigures | None:
    """Return the curve of one policy; `None` where its answers have no rewards.

    Args:
        runs: At least one.
    """
    given = sorted(
        (run for run in runs if run.answers and run.reward is not None),
        key=_reward,
        reverse=True,
    )
    if not given:
        return None
    total = len(runs)
    unanswerable = sum(run.unanswerable for run in runs)
    rights: list[float] = []
    points: list[SelectivePoint] = []
    right, answered, misled = 0.0, 0, 0
    for tau_r, group in groupby(given, key=_reward):
        alike = list(group)
        more = sum(_is_right(run) for run in alike)
        # Answers of one reward come in no order: each brings the mean of them.
        rights += [right + more * n / len(alike) for n in range(1, len(alike) + 1)]
        right, answered = right + more, answered + len(alike)
        misled += sum(run.unanswerable for run in alike)
        points.append(
            {
                "tau_r": tau_r,
                "answered": answered / total,
                "accuracy": right / answered,
                "declined": 1 - misled / unanswerable if unanswerable else None,
            }
        )
    rights += [right] * (total - answered)
    return {
        "area": sum(found / n for n, found in enumerate(rights, 1)) / total,
        "best_area": sum(min(n, right) / n for n in range(1, total + 1)) / total,
        "points": _thinned(points),
    }


def answered_at(found: SelectiveFigures, accuracy: float) -> SelectivePoint | None:
    """Return the point that answers most questions with at least this accuracy, if one does."""
    reached = [point for point in found["points"] if point["accuracy"] >= accuracy]
    return max(reached, key=lambda point: point["answered"], default=None)


def _reward(run: ReplayedRun) -> float:
    return run.reward or 0.0


def _is_right(run: ReplayedRun) -> bool:
    return bool(run.right) and not run.unanswerable


def _thinned(points: Sequence[SelectivePoint]) -> list[SelectivePoint]:
    """Return evenly spread points of a long curve, the last one among them."""
    step = -(-len(points) // MAX_POINTS)
    return [point for n, point in enumerate(reversed(points)) if n % step == 0][::-1]
