"""What all strategies over steps share: the first round, the end, and the vote of paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.strategy import Choice, Expansion, Proposal
from rttc_graph.search.weighted import UNJUDGED, log_odds
from rttc_graph.state import Drawn


def ended(panel: Panel) -> Proposal | None:
    """Return why no more is drawn, or a plain draw where only one answer is wanted."""
    if panel.left == 0:
        return Proposal(reason=f"all {panel.size} answers are drawn")
    if panel.size == 1:
        return Proposal(draws=panel.turns(1), reason="one answer is wanted")
    return None


def first_steps(panel: Panel, count: int, *, branch: int = 0) -> tuple[Expansion, ...]:
    """Return first steps, the proposers taking turns."""
    turns = panel.turns(count)
    return tuple(
        Expansion(None, count=number, proposer=name, branch=branch)
        for name, number in turns.items()
    )


def is_last_round(panel: Panel, *, new: int) -> bool:
    """Tell whether the next round has to write its answers to their ends.

    Args:
        panel: The panel.
        new: Steps that the round would add to the tree.
    """
    return panel.rounds_left <= 1 or len(panel.tree) + new > panel.settings.nodes


def widened(panel: Panel, places: Sequence[int], widths: Sequence[int], *, reason: str) -> Proposal:
    """Return the round in which as many steps as said follow each of these steps."""
    to_end = is_last_round(panel, new=sum(widths))
    return Proposal(
        expansions=tuple(
            Expansion(place, count=width, branch=panel.tree[place]["branch"], to_end=to_end)
            for place, width in zip(places, widths, strict=True)
            if width > 0
        ),
        reason=f"{reason}; these are written to the end" if to_end else reason,
    )


def shared_out(panel: Panel, widths: Callable[[list[float | None]], list[int]]) -> Proposal:
    """Return the next round of a search that goes on from all of its live steps at once.

    The first round has as many first steps as answers are wanted.

    Args:
        panel: The panel.
        widths: How many steps follow each of the live ones, told by their probabilities.
    """
    if (end := ended(panel)) is not None:
        return end
    if not panel.tree:
        return Proposal(
            expansions=first_steps(panel, panel.left), reason=f"the first {panel.left} steps"
        )
    live = StepTree(panel.tree).frontier()
    if not live:
        return Proposal(reason="every answer has ended")
    found = widths([panel.tree[place]["p"] for place in live])
    kept = sum(width > 0 for width in found)
    return widened(panel, live, found, reason=f"goes on from {kept} of {len(live)} steps")


def vote_of_paths(panel: Panel) -> Choice:
    """Return the best-judged answer whose votes have the most weight.

    A vote counts the log-odds of the answer's reward where rewards are probabilities, else of its
    last step. Answers that share their beginning count less: one of k that share all counts 1/k.

    Raises:
        BudgetExceeded: No draw gave any text, and the deadline ended some.
        PolicyModelError: No draw gave any text.
    """
    tree = StepTree(panel.tree)
    ends = {
        node["answer"]: place for place, node in enumerate(panel.tree) if node["answer"] is not None
    }
    weights: dict[int, float] = {}
    for place, one in enumerate(panel.drawn):
        end = ends.get(place)
        others = [other for number, other in ends.items() if number != place]
        alike = 0.0 if end is None else sum(tree.shared(end, other) for other in others)
        # By identity: two draws may be equal.
        weights[id(one)] = log_odds(_judged(panel, one, tree, end)) / (1 + alike)
    return voted(panel, lambda votes: math.fsum(weights[id(one)] for one in votes))


def value_of(panel: Panel, place: int) -> float:
    """Return the probability of a step, that of its whole answer where that is calibrated."""
    node = panel.tree[place]
    if node["answer"] is not None and panel.calibrated:
        reward = panel.drawn[node["answer"]]["reward"]
        if reward is not None:
            return reward
    return UNJUDGED if node["p"] is None else node["p"]


def _judged(panel: Panel, one: Drawn, tree: StepTree, end: int | None) -> Drawn:
    if panel.calibrated or end is None:
        return one
    return {**one, "reward": tree.nodes[end]["p"]}
