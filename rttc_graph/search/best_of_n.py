"""`best_of_n`: the answer with the highest reward."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel, best_of, standings
from rttc_graph.search.strategy import Choice, Proposal, draw_all, without_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Draws all answers at once and keeps the best-judged one."""

    def propose(self, panel: Panel) -> Proposal:
        """Return all draws."""
        return draw_all(panel)

    def choose(self, panel: Panel) -> Choice:
        """Return the draw with the highest reward; of equals, or without rewards, the earliest.

        One whose answer cannot be read is kept only where none can be.
        """
        readable = [n for n, one in enumerate(panel.drawn) if one["vote"] is not None]
        place = best_of(panel.drawn, readable)
        if place is None:
            return without_votes(panel)
        votes = next(one.votes for one in standings(panel) if place in one.places)
        return Choice(place, votes)
