"""`refine`: one answer, revised again and again as long as its reward rises."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.chains import text_in_hand
from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.strategy import Choice, Proposal, without_votes

PATIENCE = 2
"""Revisions of the same answer, none of them better, after which no more are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refine:
    """Draws one answer, and revisions of the best-judged one, a round each.

    Raises:
        ConfigurationError: `patience` is below 1.
    """

    patience: int = PATIENCE

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigurationError(f"patience={self.patience!r} must be at least 1")

    def propose(self, panel: Panel) -> Proposal:
        """Return the next revision, or why there is none."""
        if panel.left == 0:
            return Proposal(reason=f"all {panel.size} answers are drawn")
        kept = self._kept(panel)
        if kept is None or not text_in_hand(panel, kept):
            return Proposal(draws=panel.turns(1), reason="an answer to revise is wanted")
        reward = panel.drawn[kept]["reward"]
        if reward is None:
            return Proposal(reason="the answer has no reward, so no revision can be told better")
        if reward >= panel.tau_r:
            return Proposal(reason=f"its reward {reward:.3f} is at least τr {panel.tau_r:g}")
        tried = sum(one.get("revises") == kept for one in panel.drawn)
        if tried >= self.patience:
            return Proposal(reason=f"{tried} revisions of the answer have no higher reward")
        return Proposal(revisions=(kept,), reason=f"its reward {reward:.3f} is below τr")

    def choose(self, panel: Panel) -> Choice:
        """Return the answer with the highest reward; of equals the one before its revisions."""
        kept = self._kept(panel)
        if kept is None:
            return without_votes(panel)
        vote = panel.drawn[kept]["vote"]
        return Choice(kept, votes=sum(one["vote"] == vote for one in panel.drawn))

    def _kept(self, panel: Panel) -> int | None:
        return best_of(
            panel.drawn, [n for n, one in enumerate(panel.drawn) if one["vote"] is not None]
        )
