"""Strategy: two pure decisions over a panel, and what they return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rttc_graph.errors import BudgetExceeded, PolicyModelError
from rttc_graph.search.panel import Panel, best_of


@dataclass(frozen=True, slots=True)
class Continuation:
    """A draw that goes on from the beginning of an answer, to the prompt of an earlier draw."""

    place: int
    """Place in `Panel.drawn` of the draw whose prompt it is."""
    begun: str
    """Text that the answer begins with: mostly what that draw said, `Drawn.whole`, and more."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """Steps that are drawn behind a step of the tree."""

    parent: int | None
    """Place in `Panel.tree` of the step that is gone on from; `None` begins an answer."""
    count: int = 1
    """Number of steps, at least 1."""
    proposer: str = ""
    """Whom a first step is drawn from; a later one has its parent's."""
    branch: int = 0
    """Number of the tree that it belongs to, where several are kept apart."""
    is_look: bool = False
    """Whether it is a look ahead, which is greedy."""
    to_end: bool = False
    """Whether the answer is written to its end instead of one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Questions of the graph of thoughts that are worked on, by their places in it."""

    asks: tuple[int, ...] = ()
    """Open questions that are answered, each once from every proposer."""
    splits: tuple[int, ...] = ()
    """Answered questions that are split into smaller ones."""
    joins: tuple[int, ...] = ()
    """Split questions that are answered from their parts; for the run's own, these are draws."""

    @property
    def places(self) -> tuple[int, ...]:
        """All places that are named."""
        return (*self.asks, *self.splits, *self.joins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The next round of draws, or the end."""

    draws: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of answers to draw by proposer; with nothing else either, the panel ends."""
    continuations: tuple[Continuation, ...] = ()
    """Draws that go on from the beginning of an answer, beside `draws`; only a strategy that is
    registered with `continues` may have any."""
    expansions: tuple[Expansion, ...] = ()
    """Steps to draw; nothing else is drawn in such a round."""
    most_tokens: int | None = None
    """Most tokens of each of these answers, at least 1; `None` for as long as one may be."""
    reserved_tokens: int = 0
    """Tokens that what a draw says is to be gone on with: the budget keeps room for them."""
    ends_loops: bool = False
    """Whether an answer that repeats itself is ended."""
    revisions: tuple[int, ...] = ()
    """Places of draws, with their texts in hand, of each of which a revision is drawn."""
    grades: tuple[int, ...] = ()
    """Places of draws that the policy model is to grade; nothing is drawn in such a round."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Places of two draws each, the earlier one first, that it is to compare; likewise."""
    watches: bool = False
    """Whether the one answer of `draws` is stopped where something is to be looked up; only a
    strategy that is registered with `looks_up` may ask for that."""
    looks_up_at: int | None = None
    """Place of a draw that has a halt: it is looked up, and the answer goes on from there with what
    is found and without it; nothing else is drawn in such a round."""
    thinks: Thinking | None = None
    """Questions of the graph of thoughts to work on; without any, the question is put into the
    graph once the answers of `draws` are there. Nothing else is drawn in such a round."""
    reason: str
    """Why, as the ledger says it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer that a panel comes to."""

    place: int
    """Its place in `Panel.drawn`; its text is in hand."""
    votes: int
    """Number of draws that say the same, itself among them; 0 where no answer could be read."""


class Strategy(Protocol):
    """What to draw next, and which answer to keep.

    Both are functions of the panel alone, so that a panel that was recorded can be decided anew.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the next round, or why there is none."""
        ...

    def choose(self, panel: Panel) -> Choice:
        """Return the answer to keep if no more were drawn.

        Raises:
            BudgetExceeded: No draw gave any text, and the deadline ended some.
            PolicyModelError: No draw gave any text.
        """
        ...


def draw_all(panel: Panel) -> Proposal:
    """Return one round of all answers that a panel may have."""
    if panel.left == 0:
        return Proposal(reason=f"all {panel.size} answers are drawn")
    return Proposal(draws=panel.turns(panel.left), reason=f"{panel.left} answers are wanted")


def without_votes(panel: Panel) -> Choice:
    """Return the best text of a panel in which no answer could be read.

    Raises:
        BudgetExceeded: No draw gave any text, and the deadline ended some.
        PolicyModelError: No draw gave any text.
    """
    place = best_of(panel.drawn, range(len(panel.drawn)))
    if place is None and any(one["finish_reason"] == "budget" for one in panel.drawn):
        raise BudgetExceeded(
            f"none of {len(panel.drawn)} draws gave any text before the deadline: raise "
            "budget_seconds"
        )
    if place is None:
        raise PolicyModelError(
            f"none of {len(panel.drawn)} draws gave any text: raise max_new_tokens, or ask another "
            "model"
        )
    return Choice(place, votes=0)
