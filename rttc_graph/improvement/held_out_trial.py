"""The trial of an adapter on questions that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rttc_graph.evaluation.intervals import paired_difference

__all__ = ("Trial", "sign_test")


def sign_test(gained: int, lost: int) -> float:
    """Return how likely as many gains, or more, are by chance alone, in (0, 1].

    The exact one-sided sign test (McNemar's, for pairs of right and wrong): without a difference,
    each question that one side alone answers rightly is a fair coin.

    Args:
        gained: Questions that only the new side answers rightly.
        lost: Questions that only the old side does.
    """
    told = gained + lost
    return math.fsum(math.comb(told, heads) for heads in range(gained, told + 1)) / 2.0**told


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Right and wrong answers to the same questions, without an adapter and with it."""

    before: Sequence[bool]
    after: Sequence[bool]
    chance: float
    """Probability of a gain by chance from which on the adapter is not kept."""

    @property
    def gained(self) -> int:
        """Number of questions that only the adapter answers rightly."""
        return sum(a > b for a, b in zip(self.after, self.before, strict=True))

    @property
    def lost(self) -> int:
        """Number of questions that only the model without it does."""
        return sum(b > a for a, b in zip(self.after, self.before, strict=True))

    @property
    def luck(self) -> float:
        """Probability of such a gain by chance alone."""
        return sign_test(self.gained, self.lost)

    @property
    def is_better(self) -> bool:
        """Whether the adapter is better by more than chance."""
        return self.gained > self.lost and self.luck <= self.chance

    def as_json(self) -> dict[str, Any]:
        """Return the figures, accuracies and their difference as shares in [0, 1]."""
        mean, low, high = paired_difference(list(self.after), list(self.before))
        return {
            "questions": len(self.before),
            "before": sum(self.before) / len(self.before),
            "after": sum(self.after) / len(self.after),
            "difference": [mean, low, high],
            "gained": self.gained,
            "lost": self.lost,
            "luck": self.luck,
            "chance": self.chance,
            "is_better": self.is_better,
        }
