"""`particles`: a particle filter over steps, which draws lots where `beam` sorts."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_search import ended, first_steps, vote_of_paths, widened
from rttc_graph.search.steps.step_tree import StepTree
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
        if (end := ended(panel)) is not None:
            return end
        if not panel.tree:
            return Proposal(
                expansions=first_steps(panel, panel.left), reason=f"{panel.left} particles"
            )
        live = StepTree(panel.tree).frontier()
        if not live:
            return Proposal(reason="every answer has ended")
        widths = resampled_widths(
            [panel.tree[place]["p"] for place in live],
            panel.left,
            seed=f"particles {panel.seed}:{len(panel.tree)}",
            widest=panel.widest,
        )
        kept = sum(width > 0 for width in widths)
        return widened(panel, live, widths, reason=f"{kept} of {len(live)} particles are kept")

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)
