"""`adaptive`: rounds of the fewest draws that may decide, until the vote is sure or cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel, Standing, Weight, number_of, standings
from rttc_graph.search.strategy import Choice, Proposal
from rttc_graph.search.weighted import MOST, judged_weight

SURE = 0.95
"""Probability that the leading answer stays ahead from which on a vote is sure."""

FUTILE = 0.99
"""That probability from which on no more is drawn although the reward stays below τr: more draws
would say the same."""

UNREADABLE = 6
"""Number of draws after which no more are made if not one answer could be read."""

EXACT, GROWTH = 8, 4
"""A round has at least one draw for every `GROWTH` beyond the first `EXACT`, so that 64 answers
take at most `MAX_ROUNDS` rounds whatever they say. Up to 16 answers, no round is larger for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Draws as many answers as one at a time would take, in few rounds.

    A round has the fewest draws that can end the panel, were they all to agree: nothing is missed
    by not looking in between. Votes as `weighted` where rewards are calibrated, elsewhere as
    `majority`.

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
        fewest = min(self._fewest(panel), panel.left)
        plural = "s" if fewest > 1 else ""
        return Proposal(
            draws=panel.turns(fewest), reason=f"{fewest} more answer{plural} may decide"
        )

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer whose votes have the most weight."""
        return voted(panel, vote_weight(panel))

    def _fewest(self, panel: Panel) -> int:
        """Return the least number of draws that may end the panel, were they all to agree.

        Once a vote is sure but its reward is too low, that is the number after which it is futile.
        """
        found = standings(panel, vote_weight(panel))
        votes = sorted((one.votes for one in found), reverse=True)
        most, second = (*votes, 0, 0)[:2]
        sure = self.sure if stays_ahead(most, second) < self.sure else self.futile
        least = next(n for n in count(1) if stays_ahead(most + n, second) >= sure)
        if not found:
            least = min(least, UNREADABLE - len(panel.drawn))
        least = min(least, _to_be_out_of_reach(found, panel))
        return max(least, (len(panel.drawn) - EXACT) // GROWTH)

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
    """Return what votes count: their log-odds where rewards are probabilities, else one each."""
    return judged_weight if panel.calibrated else number_of


def _to_be_out_of_reach(found: Sequence[Standing], panel: Panel) -> int:
    """Return after how many draws for the leader what is then left could not change the vote."""
    leader, rival = (*(one.weight for one in found), 0.0, 0.0)[:2]
    wanted = (panel.left + (rival - leader) / _most_weight(panel)) / 2
    return max(1, math.ceil(wanted - 1e-9))  # sums of weights are rounded


def _most_weight(panel: Panel) -> float:
    return MOST if panel.calibrated else 1.0


def _is_out_of_reach(leader: Standing, rivals: Sequence[Standing], panel: Panel) -> bool:
    """Tell whether the leader wins even if all that is left goes to one other answer.

    That other may be one that nobody has given yet, which comes later and so loses a tie.
    """
    gain = panel.left * _most_weight(panel)
    if leader.weight < gain:
        return False
    return all(
        one.weight + gain < leader.weight
        or (one.weight + gain == leader.weight and leader.places[0] < one.places[0])
        for one in rivals
    )
