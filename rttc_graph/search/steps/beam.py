"""`beam`: answers that grow step by step, the better ones faster."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_search import shared_out, vote_of_paths
from rttc_graph.search.steps.step_widths import hard_widths, soft_widths
from rttc_graph.search.strategy import Choice, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """Draws as many first steps as answers are wanted, and shares out each round what is left.

    In its soft form (REBASE) a step's width grows with its probability, in its hard form the best
    ones get `search_children` each. Finished answers count as answers, so that there are never more
    of both together than `search_n`.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the next round of steps, or why there is none."""
        return shared_out(panel, lambda shares: self.widths(panel, shares))

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)

    def widths(self, panel: Panel, shares: list[float | None]) -> list[int]:
        """Return how many steps follow each of some steps with these probabilities."""
        settings, left = panel.settings, panel.left
        if settings.beam == "hard":
            return hard_widths(shares, left, children=settings.children, widest=panel.widest)
        return soft_widths(shares, left, widest=panel.widest)
