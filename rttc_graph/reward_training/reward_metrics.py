"""What a judge is worth: how well it tells right from wrong, and whether its numbers mean it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from rttc_graph.evaluation.reliability import calibration_error
from rttc_graph.support.extras import require


class RewardMetrics(TypedDict):
    """One set of judged answers."""

    answers: int
    right: int
    auc: float | None
    """Share of right-wrong pairs in which the right answer scores higher, ties half; `None` without
    both kinds."""
    auc_same_question: float | None
    """AUC over pairs of right and wrong answers to the same question."""
    ece: float | None
    """Mean distance of reward and share of right answers over tenths of the reward."""
    false_accepts: float | None
    """Share of wrong ones among answers at or above 0.8."""
    accepted: int
    """Answers at or above 0.8."""


def auc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the area under the ROC curve; ties count half, `None` without both kinds.

    Raises:
        ConfigurationError: scikit-learn is not installed.
    """
    if all(right) or not any(right):
        return None
    metrics: Any = require("sklearn.metrics", extra="local", purpose="figures of reward models")
    return float(metrics.roc_auc_score(right, scores))


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


def reward_metrics(
    scores: Sequence[float], right: Sequence[bool], groups: Sequence[str]
) -> RewardMetrics:
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
