"""`adaptive`: rounds of 2, 4, 8, … draws, until the vote is sure or more draws are of no use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel, Standing, Weight, one_each, standings
from rttc_graph.search.strategy import Choice, Proposal
from rttc_graph.search.weighted import MOST, log_odds

SURE = 0.95
"""Probability that the leading answer stays ahead from which on a vote is sure."""

FUTILE = 0.99
"""That probability from which on no more is drawn although the reward stays below τr: more draws
would say the same."""

UNREADABLE = 6
"""Number of draws, two rounds, after which no more are made if not one answer could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Draws in rounds that double, and votes as `weighted` where rewards are calibrated.

    Elsewhere it votes as `majority`.

    Raises:
        ConfigurationError: The probabilities are not 0.5 < sure <= futile < 1.
    """

    sure: float = SURE
    futile: float = FUTILE

    def __post_init__(self) -> None:
        if not 0.5 < self.sure <= self.futile < 1:
            raise ConfigurationError(
                f"sure={self.sure!r} and futile={self.futile!r} must be 0.5 < sure <= futile < 1"
            )

    def propose(self, panel: Panel) -> Proposal:
        """Return the next round, or why there is none."""
        reason = self._end(panel)
        if reason is not None:
            return Proposal(reason=reason)
        count = min(len(panel.drawn) + 2, panel.left)
        return Proposal(draws=panel.turns(count), reason=f"{count} more answers may decide")

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer whose votes have the most weight."""
        return voted(panel, vote_weight(panel))

    def _end(self, panel: Panel) -> str | None:
        """Return why no more is drawn; `None` to go on."""
        if panel.left == 0:
            return f"all {panel.size} answers are drawn"
        found = standings(panel, vote_weight(panel))
        if not found:
            drawn = len(panel.drawn)
            return f"no answer can be read in {drawn} draws" if drawn >= UNREADABLE else None
        leader, rivals = found[0], found[1:]
        if _is_out_of_reach(leader, rivals, panel):
            return "futile: no further draw can change the vote"
        ahead = stays_ahead(leader.votes, max((one.votes for one in rivals), default=0))
        if ahead < self.sure:
            return None
        reward = panel.drawn[self.choose(panel).place]["reward"]
        if not panel.calibrated or (reward is not None and reward >= panel.tau_r):
            return f"sure: the leading answer stays ahead with probability {ahead:.3f}"
        if ahead >= self.futile:
            return f"futile: the vote is sure ({ahead:.3f}) and its reward is below τr"
        return None


def stays_ahead(leader: int, rival: int) -> float:
    """Return the probability that an answer is drawn more often than its strongest rival.

    The share of the leader among draws of the two has the posterior Beta(leader + 1, rival + 1);
    its mass above one half is a sum of binomial coefficients, so that it is exact.

    Args:
        leader: Votes for the one, at least 0.
        rival: Votes for the other.
    """
    tosses = leader + rival + 1
    return sum(math.comb(tosses, heads) for heads in range(leader + 1)) / float(2**tosses)


def vote_weight(panel: Panel) -> Weight:
    """Return what a vote counts: its log-odds where rewards are probabilities, else one."""
    return log_odds if panel.calibrated else one_each


def _is_out_of_reach(leader: Standing, rivals: Sequence[Standing], panel: Panel) -> bool:
    """Tell whether the leader wins even if all that is left goes to one other answer.

    That other may be one that nobody has given yet, which comes later and so loses a tie.
    """
    gain = panel.left * (MOST if panel.calibrated else 1.0)
    if leader.weight < gain:
        return False
    return all(
        one.weight + gain < leader.weight
        or (one.weight + gain == leader.weight and leader.places[0] < one.places[0])
        for one in rivals
    )
