"""`mcts`: tree search that weighs how good a step is against how little it was tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.panel import Panel
from rttc_graph.search.steps.step_search import (
    ended,
    first_steps,
    is_last_round,
    shared_out,
    value_of,
    vote_of_paths,
)
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.steps.step_widths import even_widths
from rttc_graph.search.strategy import Choice, Expansion, Proposal

EXPLORATION = 1.25
"""Weight of trying what was tried little, the constant of AlphaZero's PUCT."""

BATCH = 16
"""Steps of a round: as many rows as the local engine decodes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcts:
    """Descends by PUCT and expands the leaves that it comes to, several a round.

    A step's value is its probability, its prior the likelihood that the model gave it among the
    steps beside it; nothing is rolled out. Leaves of one round are told apart by a virtual loss.
    When the tree is full, the best leaves are written to the end. Where the judge tells nothing,
    plain answers grow side by side.

    Raises:
        ConfigurationError: `exploration` is below 0.
    """

    exploration: float = EXPLORATION

    def __post_init__(self) -> None:
        if not self.exploration >= 0:
            raise ConfigurationError(f"exploration={self.exploration!r} must be at least 0")

    def propose(self, panel: Panel) -> Proposal:
        """Return the steps behind the chosen leaves, or why there are none."""
        if panel.widest == 1:
            return shared_out(panel, lambda shares: even_widths(len(shares), panel.left))
        if (end := ended(panel)) is not None:
            return end
        wide = min(panel.settings.children, panel.left)  # each may end an answer
        if not panel.tree:
            return Proposal(expansions=first_steps(panel, wide), reason="the tree begins")
        visits = _Visits(panel, self.exploration)
        leaves = visits.leaves(max(1, min(BATCH, panel.left) // wide))
        if not leaves:
            return Proposal(reason="every answer has ended")
        if is_last_round(panel, new=wide * len(leaves)):
            return self._to_the_end(panel)
        return Proposal(
            expansions=tuple(Expansion(place, count=wide) for place in leaves),
            reason=f"{len(leaves)} leaves of {len(panel.tree)} steps are expanded",
        )

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer whose votes have the most weight."""
        return vote_of_paths(panel)

    def _to_the_end(self, panel: Panel) -> Proposal:
        tree = StepTree(panel.tree)
        live = [n for n in range(len(panel.tree)) if tree.is_live(n) and not tree.children(n)]
        best = sorted(live, key=lambda place: (-value_of(panel, place), place))
        count = min(panel.left, max(1, panel.size // 2))
        return Proposal(
            expansions=tuple(Expansion(place, to_end=True) for place in best[:count]),
            reason=f"the tree is full: its best {min(count, len(best))} leaves are written to the "
            "end",
        )


class _Visits:
    """Visits and values of a tree, worked out from it anew."""

    def __init__(self, panel: Panel, exploration: float) -> None:
        self._panel = panel
        self._exploration = exploration
        self._tree = StepTree(panel.tree)
        count = len(panel.tree)
        self._visits = [1] * count
        self._values = [value_of(panel, place) for place in range(count)]
        self._open = [self._tree.is_live(place) for place in range(count)]
        for place in reversed(range(count)):  # children before their parents
            children = self._tree.children(place)
            self._visits[place] += sum(self._visits[one] for one in children)
            self._values[place] += math.fsum(self._values[one] for one in children)
            if children:
                self._open[place] = any(self._open[one] for one in children)

    def leaves(self, count: int) -> list[int]:
        """Return up to `count` different leaves that can be gone on from."""
        found: list[int] = []
        while len(found) < count and (leaf := self._descend()) is not None:
            found.append(leaf)
            for place in self._tree.path(leaf):  # a loss that nobody has had yet
                self._visits[place] += 1
            self._close(leaf)
        return found

    def _descend(self) -> int | None:
        place: int | None = None
        while children := [one for one in self._tree.children(place) if self._open[one]]:
            place = self._best(children, place)
            if not self._tree.children(place):
                return place
        return None

    def _close(self, leaf: int) -> None:
        """Take a leaf, and whatever leads to no other leaf, out of the next descents."""
        for place in reversed(self._tree.path(leaf)):
            children = self._tree.children(place)
            self._open[place] = any(self._open[one] for one in children)

    def _best(self, children: Sequence[int], parent: int | None) -> int:
        every = self._tree.children(parent)
        priors = dict(zip(every, self._priors(every), strict=True))
        tried = sum(self._visits[one] for one in every)

        def worth(one: int) -> float:
            mean = self._values[one] / self._visits[one]
            untried = priors[one] * math.sqrt(tried) / (1 + self._visits[one])
            return mean + self._exploration * untried

        return max(children, key=lambda one: (worth(one), -one))

    def _priors(self, siblings: Sequence[int]) -> list[float]:
        """Return how likely the model found each step, as shares of steps beside each other."""
        found = [self._panel.tree[one]["mean_logprob"] for one in siblings]
        weights = [1.0 if one is None else math.exp(one) for one in found]
        total = math.fsum(weights)
        return [weight / total if total else 1 / len(weights) for weight in weights]
