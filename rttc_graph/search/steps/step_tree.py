"""Tree of steps: what was written so far, and from where it can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.state import StepNode


class StepTree:
    """A tree of steps with its paths.

    Args:
        nodes: Its steps; a parent stands before its children.
    """

    def __init__(self, nodes: Sequence[StepNode]) -> None:
        self.nodes = tuple(nodes)
        self._children: dict[int | None, list[int]] = {}
        for place, node in enumerate(self.nodes):
            self._children.setdefault(node["parent"], []).append(place)

    def children(self, place: int | None) -> tuple[int, ...]:
        """Return the places of the steps behind one; `None` asks for the first steps."""
        return tuple(self._children.get(place, ()))

    def path(self, place: int | None) -> tuple[int, ...]:
        """Return the places from the first step to this one."""
        found: list[int] = []
        while place is not None:
            found.append(place)
            place = self.nodes[place]["parent"]
        return tuple(reversed(found))

    def text(self, place: int | None) -> str:
        """Return what is written up to the end of a step."""
        return "".join(self.nodes[one]["text"] for one in self.path(place))

    def tokens(self, place: int | None) -> int:
        """Return how many tokens were written up to the end of a step."""
        return sum(self.nodes[one]["completion_tokens"] for one in self.path(place))

    def is_live(self, place: int) -> bool:
        """Tell whether a step can be gone on from."""
        return self.nodes[place]["finish_reason"] == "step"

    def frontier(self) -> tuple[int, ...]:
        """Return the steps of the last round that can be gone on from."""
        last = max((node["round"] for node in self.nodes), default=0)
        return tuple(
            place
            for place, node in enumerate(self.nodes)
            if node["round"] == last and self.is_live(place)
        )

    def shared(self, one: int, other: int) -> float:
        """Return the share of an answer's tokens, up to `one`, that another one has as well."""
        both = set(self.path(one)) & set(self.path(other))
        tokens = sum(self.nodes[place]["completion_tokens"] for place in both)
        return tokens / max(1, self.tokens(one))
