"""`weighted`: the answer whose votes have the most weight, by the judge's probability of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Choice, Proposal, draw_all
from rttc_graph.state import Drawn

FLOOR = 0.02
"""Reward at or below which a vote counts nothing, and 1 - FLOOR the one above which it counts no
more: no judge that was calibrated on some hundred answers knows its tails better."""

UNJUDGED = 0.5
"""Reward that a vote without one counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Draws all answers at once; each votes with the log-odds of its reward."""

    def propose(self, panel: Panel) -> Proposal:
        """Return all draws."""
        return draw_all(panel)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer whose votes have the most weight.

        Without any reward this is the majority.
        """
        return voted(panel, log_odds)


def log_odds(drawn: Drawn) -> float:
    """Return the weight of a vote: the log-odds of its reward above those of `FLOOR`, in nats.

    It is never below 0, so that one more draw with the same answer never counts against it, and at
    most `MOST`.
    """
    reward = UNJUDGED if drawn["reward"] is None else drawn["reward"]
    return _logit(min(max(reward, FLOOR), 1 - FLOOR)) - _logit(FLOOR)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


MOST = _logit(1 - FLOOR) - _logit(FLOOR)
"""Highest weight of a vote, 7.8 nats."""
