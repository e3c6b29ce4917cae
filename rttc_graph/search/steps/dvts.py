"""`dvts`: several small trees apart from each other, each of which follows its best step."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_search import (
    ended,
    first_steps,
    is_last_round,
    vote_of_paths,
)
from rttc_graph.search.strategy import Choice, Expansion, Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Dvts:
    """Grows `search_n` / `search_children` trees, and keeps the best step of each round in each.

    Only finished answers vote, and those of one tree, which share nearly all, count as little more
    than one. Where the judge abstains, a tree is a single answer.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the next step of each tree, or why there is none."""
        if (end := ended(panel)) is not None:
            return end
        wide = self._wide(panel)
        if not panel.tree:
            trees = max(1, panel.size // wide)
            return Proposal(
                expansions=_first_steps(panel, trees, wide), reason=f"{trees} trees begin"
            )
        followed = [place for place in self._followed(panel) if place is not None]
        if not followed:
            return Proposal(reason="every tree has ended")
        expansions: list[Expansion] = []
        left = panel.left
        for number, place in enumerate(followed):
            waiting = len(followed) - number - 1  # trees behind it, which get one at least
            count = max(0, min(wide, left - waiting))
            left -= count
            if count:
                branch = panel.tree[place]["branch"]
                expansions.append(Expansion(place, count=count, branch=branch))
        if is_last_round(panel, new=sum(one.count for one in expansions)):
            expansions = [
                Expansion(one.parent, count=1, branch=one.branch, to_end=True) for one in expansions
            ]
        return Proposal(
            expansions=tuple(expansions), reason=f"{len(followed)} trees go on with their best step"
        )

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)

    def _wide(self, panel: Panel) -> int:
        unscored = any(node["p"] is None for node in panel.tree)
        if panel.widest == 1 or unscored:
            return 1
        return min(panel.settings.children, panel.widest or panel.size, panel.size)

    def _followed(self, panel: Panel) -> list[int | None]:
        """Return the best step of each tree's last round; `None` for a tree that has ended."""
        newest: dict[int, list[int]] = {}
        for place, node in enumerate(panel.tree):
            group = newest.setdefault(node["branch"], [])
            if group and panel.tree[group[0]]["round"] < node["round"]:
                group.clear()
            group.append(place)
        found: list[int | None] = []
        for group in newest.values():
            best = max(group, key=lambda place: (panel.tree[place]["p"] or 0.0, -place))
            found.append(best if panel.tree[best]["finish_reason"] == "step" else None)
        return found


def _first_steps(panel: Panel, trees: int, wide: int) -> tuple[Expansion, ...]:
    """Return the first steps of each tree, whose proposers take turns tree by tree."""
    if wide == 1:
        names = [one for one in first_steps(panel, trees) for _ in range(one.count)]
        return tuple(
            Expansion(None, proposer=one.proposer, branch=number)
            for number, one in enumerate(names)
        )
    count = len(panel.proposers)
    return tuple(
        Expansion(None, count=wide, proposer=panel.proposers[number % count], branch=number)
        for number in range(trees)
    )
