"""What a judge is worth: how well it tells right from wrong, and whether its numbers mean it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from typing_extensions import TypedDict

BINS = 10
"""Of the calibration error: tenths of the reward, as is customary."""


class Figures(TypedDict):
    """One set of judged answers."""

    answers: int
    right: int
    auc: float | None
    """How often a right answer is above a wrong one, ties half; `None` without both."""
    auc_same_question: float | None
    """The same over right and wrong answers to one question."""
    ece: float | None
    """Mean distance of reward and share of right answers over tenths of the reward."""
    false_accepts: float | None
    """Share of wrong ones among answers at or above 0.8."""
    accepted: int
    """Answers at or above 0.8."""


def auc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the area under the ROC curve by ranks; ties count half."""
    positives = sum(right)
    negatives = len(right) - positives
    if not positives or not negatives:
        return None
    ranks = _ranks(scores)
    total = math.fsum(rank for rank, is_right in zip(ranks, right, strict=True) if is_right)
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def auc_within(
    scores: Sequence[float], right: Sequence[bool], groups: Sequence[str]
) -> float | None:
    """Return the share of right-wrong pairs of the same group that are in order; ties half."""
    members: dict[str, list[tuple[float, bool]]] = {}
    for score, is_right, group in zip(scores, right, groups, strict=True):
        members.setdefault(group, []).append((score, is_right))
    wins = pairs = 0.0
    for answers in members.values():
        good = [score for score, is_right in answers if is_right]
        bad = [score for score, is_right in answers if not is_right]
        wins += sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
        pairs += len(good) * len(bad)
    return wins / pairs if pairs else None


def calibration_error(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the expected calibration error over ten equal bins."""
    if not scores:
        return None
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for score, is_right in zip(scores, right, strict=True):
        bins[min(int(score * BINS), BINS - 1)].append((score, is_right))
    gaps = (abs(math.fsum(s for s, _ in part) - sum(r for _, r in part)) for part in bins if part)
    return math.fsum(gaps) / len(scores)


def figures(scores: Sequence[float], right: Sequence[bool], groups: Sequence[str]) -> Figures:
    """Return all figures of one set."""
    accepted = [is_right for score, is_right in zip(scores, right, strict=True) if score >= 0.8]
    return {
        "answers": len(scores),
        "right": sum(right),
        "auc": auc(scores, right),
        "auc_same_question": auc_within(scores, right, groups),
        "ece": calibration_error(scores, right),
        "false_accepts": 1 - sum(accepted) / len(accepted) if accepted else None,
        "accepted": len(accepted),
    }


def _ranks(values: Sequence[float]) -> Iterable[float]:
    """Return the rank of each value from 1; equal ones share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for index in order[first : last + 1]:
            ranks[index] = (first + last) / 2 + 1
        first = last + 1
    return ranks
