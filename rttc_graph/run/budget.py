"""One budget for a run: seconds, tokens and arms, as plain numbers in the state.

Seconds are added up node by node instead of being measured from a start time, so that a run that
is resumed or forked from a checkpoint has what it had left then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rttc_graph.settings import RttcSettings
from rttc_graph.state import Spent

NOTHING_SPENT: Spent = {"seconds": 0.0, "tokens": 0, "arms": 0}


@dataclass(frozen=True, slots=True)
class Allowance:
    """Rest of a run's budget; values may be below zero."""

    seconds: float
    tokens: int
    arms: int

    @classmethod
    def from_spent(cls, spent: Spent, settings: RttcSettings) -> Allowance:
        """Subtract what is spent from what the settings allow."""
        return cls(
            seconds=settings.budget_seconds - spent["seconds"],
            tokens=settings.budget_tokens - spent["tokens"],
            arms=settings.budget_arms - spent["arms"],
        )

    def exhausted(self) -> str | None:
        """Name what is used up: `seconds`, `tokens`, `arms`, or `None`."""
        if self.seconds <= 0:
            return "seconds"
        if self.tokens <= 0:
            return "tokens"
        return "arms" if self.arms <= 0 else None


def added(spent: Spent, *, since: float, tokens: int = 0, arms: int = 0) -> Spent:
    """Return `spent` with a piece of work added.

    Args:
        spent: What was spent before.
        since: Reading of `time.monotonic()` when the work began.
        tokens: Tokens that the work took.
        arms: Answers that it generated.
    """
    return {
        "seconds": spent["seconds"] + time.monotonic() - since,
        "tokens": spent["tokens"] + tokens,
        "arms": spent["arms"] + arms,
    }
