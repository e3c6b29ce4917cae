"""`lookahead`: beam search in which a step is judged by where it leads."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.beam import Beam
from rttc_graph.search.steps.step_search import (
    ended,
    first_steps,
    is_last_round,
    vote_of_paths,
)
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.strategy import Choice, Expansion, Proposal

Look = list[int]
"""Places of a candidate and of the greedy steps behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookahead:
    """Looks `search_lookahead` greedy steps ahead of each step, and judges it by the last of them.

    The first step of a look is one more candidate of the next round, and what is behind it is its
    own look: a look at a step that is kept is never drawn again. Where the judge tells nothing,
    nothing is looked at.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the next look at the candidates, or the steps behind the best of them."""
        if (end := ended(panel)) is not None:
            return end
        if not panel.tree:
            return Proposal(
                expansions=first_steps(panel, panel.left), reason=f"the first {panel.left} steps"
            )
        tree = StepTree(panel.tree)
        looks = [_look(tree, place) for place in _candidates(tree)]
        if not looks:
            return Proposal(reason="every answer has ended")
        ahead = [
            look[-1]
            for look in looks
            if panel.widest != 1
            and len(look) <= panel.settings.lookahead
            and tree.is_live(look[-1])
        ][: panel.left]  # each may end an answer
        if ahead and not is_last_round(panel, new=len(ahead)):
            return Proposal(
                expansions=tuple(Expansion(place, is_look=True) for place in ahead),
                reason=f"a look ahead of {len(ahead)} steps",
            )
        return _widened(panel, tree, looks)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)


def _widened(panel: Panel, tree: StepTree, looks: list[Look]) -> Proposal:
    """Return new steps behind the candidates whose looks are the best."""
    widths = Beam().widths(panel, [tree.nodes[look[-1]]["p"] for look in looks])
    to_end = is_last_round(panel, new=sum(widths))
    expansions: list[Expansion] = []
    for look, width in zip(looks, widths, strict=True):
        looked = bool(width and to_end and len(look) > 1 and tree.is_live(look[-1]))
        if looked:
            expansions.append(Expansion(look[-1], to_end=True))
        if width > looked:
            expansions.append(Expansion(look[0], count=width - looked, to_end=to_end))
    kept = sum(width > 0 for width in widths)
    return Proposal(
        expansions=tuple(expansions), reason=f"goes on from {kept} of {len(looks)} steps"
    )


def _candidates(tree: StepTree) -> list[int]:
    """Return the live steps of the last round that was no look, and the looks beside them."""
    last = max(node["round"] for node in tree.nodes if not node["look"])
    newest = [n for n, node in enumerate(tree.nodes) if node["round"] == last and not node["look"]]
    parents = dict.fromkeys(tree.nodes[place]["parent"] for place in newest)
    looked = [
        child
        for parent in parents
        if parent is not None
        for child in tree.children(parent)
        if tree.nodes[child]["look"]
    ]
    return [place for place in sorted([*newest, *looked]) if tree.is_live(place)]


def _look(tree: StepTree, place: int) -> Look:
    look = [place]
    while True:
        behind = [one for one in tree.children(look[-1]) if tree.nodes[one]["look"]]
        if not behind:
            return look
        look.append(behind[0])
