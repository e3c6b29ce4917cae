"""`revise`: several answers at once, each revised several times, and one vote over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.adaptive import vote_weight
from rttc_graph.search.chains import chains, kept_of, text_in_hand
from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Choice, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Revise:
    """Draws p answers, then in each round one revision of each chain, in one batch.

    What is revised is what the chain has kept: a revision only if its reward is higher. All answers
    vote, those that were not kept too, since each chain alone is short; as `adaptive` votes.

    Raises:
        ConfigurationError: `parallel` is negative.
    """

    parallel: int = 0
    """Number of chains; 0 for the square root of the panel's size, rounded up: as many chains as
    answers in each (C. Snell et al. 2024, arXiv 2408.03314, appendix)."""

    def __post_init__(self) -> None:
        if self.parallel < 0:
            raise ConfigurationError(f"parallel={self.parallel!r} must be at least 0")

    def propose(self, panel: Panel) -> Proposal:
        """Return the first answers, then a revision of each, or why there is none."""
        if panel.left == 0:
            return Proposal(reason=f"all {panel.size} answers are drawn")
        if not panel.drawn:
            wanted = min(self.parallel or math.isqrt(panel.size - 1) + 1, panel.size)
            return Proposal(draws=panel.turns(wanted), reason=f"{wanted} answers to revise")
        kept = [kept_of(panel, chain) for chain in chains(panel)]
        able = tuple(place for place in kept if text_in_hand(panel, place))[: panel.left]
        if not able:
            return Proposal(reason="no answer has a text to revise")
        return Proposal(revisions=able, reason=f"{len(able)} answers are revised")

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer whose votes have the most weight."""
        return voted(panel, vote_weight(panel))
