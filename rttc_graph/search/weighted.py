"""`weighted`: the answer whose votes have the most weight, by the judge's probability of each.

Draws of one prompt are no independent witnesses: what the model says once, it says again, wrong
answers above all. An answer that two prompts give therefore counts more than one that the same
prompt gives twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Choice, Proposal, draw_all
from rttc_graph.state import Drawn

FLOOR = 0.02
"""Reward at or below which a vote counts nothing, and 1 - FLOOR the one above which it counts no
more: no judge that was calibrated on some hundred answers knows its tails better."""

REPEATS = 1 / 3
"""Power by which repetitions count: an answer that a prompt gives n times counts there as n to this
power of it. With 1 a panel of 32 answers to word problems was right in 33 %, with 1/3 in 48 %; on
sums 54 and 53 % (130 questions each, docs/experiments.md)."""

UNJUDGED = 0.5
"""Reward that a vote without one counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Draws all answers at once; each votes with its reward's log-odds, repetitions with less."""

    def propose(self, panel: Panel) -> Proposal:
        """Return all draws."""
        return draw_all(panel)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer whose votes have the most weight.

        Without any reward this is the majority.
        """
        return voted(panel, judged_weight)


def judged_weight(votes: Sequence[Drawn]) -> float:
    """Return the weight of the votes for one answer: their log-odds, less for repetitions.

    Two draws have the same prompt if the same proposer made them with the same samples. One more
    vote adds at least 0 and at most `MOST`.
    """
    by_prompt: dict[tuple[str, tuple[int, ...]], list[float]] = {}
    for one in votes:
        prompt = one["proposer"], tuple(one["shown"])
        by_prompt.setdefault(prompt, []).append(log_odds(one))
    # fsum: the same votes in another order have the same weight to the last bit
    return math.fsum(
        odds * (place**REPEATS - (place - 1) ** REPEATS)
        for same in by_prompt.values()
        for place, odds in enumerate(sorted(same, reverse=True), start=1)
    )


def log_odds(drawn: Drawn) -> float:
    """Return the weight of one vote: the log-odds of its reward above those of `FLOOR`, in nats.

    It is never below 0, so that one more draw with the same answer never counts against it, and at
    most `MOST`.
    """
    return log_odds_of(drawn["reward"])


def log_odds_of(reward: float | None) -> float:
    """Return the weight of a vote with a reward, or without one."""
    reward = UNJUDGED if reward is None else reward
    return _logit(min(max(reward, FLOOR), 1 - FLOOR)) - _logit(FLOOR)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


MOST = _logit(1 - FLOOR) - _logit(FLOOR)
"""Highest weight of a vote, 7.8 nats."""
