"""`majority`: the answer that most draws give."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel, Weight, best_of, number_of, standings
from rttc_graph.search.strategy import Choice, Proposal, draw_all, without_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """Draws all answers at once and keeps the one with the most votes."""

    def propose(self, panel: Panel) -> Proposal:
        """Return all draws."""
        return draw_all(panel)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged draw of the answer with the most votes; of equals the earlier."""
        return voted(panel)


def voted(panel: Panel, weight: Weight = number_of) -> Choice:
    """Return the best-judged draw of the answer whose votes have the most weight.

    Raises:
        BudgetExceeded: No draw gave any text, and the deadline ended some.
        PolicyModelError: No draw gave any text.
    """
    for standing in standings(panel, weight):
        place = best_of(panel.drawn, standing.places)
        if place is not None:
            return Choice(place, standing.votes)
    return without_votes(panel)
