"""`particles`: a particle filter over steps, which draws lots where `beam` sorts."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_search import shared_out, vote_of_paths
from rttc_graph.search.steps.step_widths import resampled_widths
from rttc_graph.search.strategy import Choice, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Resamples the unfinished answers each round in proportion to the odds of their last steps.

    After arXiv 2502.01618; otherwise than there a finished answer keeps its place, and resampling
    is systematic, which has less variance.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the next round of steps, or why there is none."""

        def widths(shares: list[float | None]) -> list[int]:
            seed = f"particles {panel.seed}:{len(panel.tree)}"
            return resampled_widths(shares, panel.left, seed=seed, widest=panel.widest)

        return shared_out(panel, widths)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)
