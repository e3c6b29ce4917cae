"""`graph_of_thoughts`: a question is split where its answer fails, and answered from its parts.

After Adaptive Graph of Thoughts (arXiv 2502.05078). Two things differ: what is complex is not asked
of the model, but told by the gate, since an answer that is judged at least τr is not split; and the
direct answer stays a candidate, which the answer from the parts must beat.
"""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.strategy import Choice, Proposal, Thinking, without_votes
from rttc_graph.search.thinking.thought_graph import (
    ROOT,
    reward_of,
    to_ask,
    to_join,
    to_split,
    why_whole,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOfThoughts:
    """Draws the direct answers, then the parts of the question layer by layer, then the last."""

    def propose(self, panel: Panel) -> Proposal:
        """Return the direct answers, what is next in the graph, or why nothing is."""
        if not panel.drawn:
            drawn_from = panel.proposers[: max(1, panel.size - 1)]
            return Proposal(
                draws=dict.fromkeys(drawn_from, 1),
                thinks=Thinking(),
                reason="the question is answered directly first",
            )
        if not panel.thoughts:
            return Proposal(reason="the question is not in the graph")
        status = panel.thoughts[ROOT]["status"]
        if status == "joined":
            return Proposal(reason="the question is answered from its parts")
        if status == "answered":
            if why := why_whole(panel, ROOT):
                return Proposal(reason=why)
            reward = reward_of(panel, ROOT) or 0.0
            reason = f"the question is split: its reward {reward:.3f} is below τr {panel.tau_r:g}"
            return Proposal(thinks=Thinking(splits=(ROOT,)), reason=reason)
        return _next_layer(panel)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer to the question; of equals the earlier, direct one."""
        place = best_of(panel.drawn, range(len(panel.drawn)))
        if place is None:
            return without_votes(panel)
        vote = panel.drawn[place]["vote"]
        return Choice(place, votes=sum(vote is not None and d["vote"] == vote for d in panel.drawn))


def _next_layer(panel: Panel) -> Proposal:
    asks, splits = to_ask(panel), to_split(panel)
    joins = [place for place in to_join(panel) if place != ROOT]
    if panel.rounds_left > 1 and (asks or splits or joins):
        counts = {"answered": len(asks), "split": len(splits), "joined": len(joins)}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        thinking = Thinking(asks=tuple(asks), splits=tuple(splits), joins=tuple(joins))
        return Proposal(thinks=thinking, reason=f"smaller questions: {told}")
    if panel.left < 1:
        return Proposal(reason=f"all {panel.size} answers are drawn")
    if not any(panel.thoughts[part]["answer"] for part in panel.thoughts[ROOT]["parts"]):
        return Proposal(reason="no part of the question has an answer")
    return Proposal(
        thinks=Thinking(joins=(ROOT,)), reason="the question is answered from its parts"
    )
