"""`self_verify`: the policy model grades each answer itself, and compares the two best."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.errors import ConfigurationError
from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel, best_of, standings
from rttc_graph.search.strategy import Choice, Proposal, draw_all

NEAR = 0.05
"""Difference of two grades, each in [0, 1], up to which the two answers are compared: half of one
step of a scale of ten."""

_ROUNDING = 1e-9
"""A model that prefers a place in either order prefers neither answer, up to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfVerify:
    """Draws all answers at once, has each different one graded, and near ties compared.

    A grade is the expected value over the probabilities of all grades, so nothing is sampled.

    Raises:
        ConfigurationError: `near` is not in [0, 1].
    """

    near: float = NEAR

    def __post_init__(self) -> None:
        if not 0 <= self.near <= 1:
            raise ConfigurationError(f"near={self.near!r} must be in [0, 1]")

    def propose(self, panel: Panel) -> Proposal:
        """Return the draws, then what is to be graded or compared, or why nothing is."""
        if panel.left:
            return draw_all(panel)
        each = _each_answer(panel)
        if len(each) < 2:
            return Proposal(reason="there are no two different answers to grade")
        ungraded = tuple(place for place in each if panel.drawn[place].get("grade") is None)
        if ungraded:
            return Proposal(grades=ungraded, reason=f"{len(ungraded)} answers are graded")
        first, second, *_ = self._ranked(panel)
        if _grade(panel, first) - _grade(panel, second) <= self.near:
            pair = min(first, second), max(first, second)
            if pair not in panel.compared:
                return Proposal(pairs=(pair,), reason="the two best grades are near each other")
        return Proposal(reason=f"all {len(each)} different answers are graded")

    def choose(self, panel: Panel) -> Choice:
        """Return the answer with the best grade, and of a near tie the one that is preferred.

        Of equal grades the one with more votes is kept; without grades this is the majority.
        """
        ranked = self._ranked(panel)
        if not ranked or panel.drawn[ranked[0]].get("grade") is None:
            return voted(panel)
        kept = ranked[0]
        if len(ranked) > 1:
            one, other = sorted(ranked[:2])
            preferred = panel.compared.get((one, other), 0.5)
            if abs(preferred - 0.5) > _ROUNDING:
                kept = one if preferred > 0.5 else other
        return Choice(kept, votes=_votes(panel, kept))

    def _ranked(self, panel: Panel) -> list[int]:
        """Return a draw of each answer, the best grade first; of equals the one with more votes."""
        return sorted(
            _each_answer(panel),
            key=lambda place: (-_grade(panel, place), -_votes(panel, place), place),
        )


def _each_answer(panel: Panel) -> list[int]:
    """Return one draw of each answer: the one that was graded, else the best-judged."""
    found: list[int] = []
    for standing in standings(panel):
        graded = [n for n in standing.places if panel.drawn[n].get("grade") is not None]
        best = best_of(panel.drawn, graded or standing.places)
        if best is not None:
            found.append(best)
    return found


def _grade(panel: Panel, place: int) -> float:
    grade = panel.drawn[place].get("grade")
    return -1.0 if grade is None else grade


def _votes(panel: Panel, place: int) -> int:
    vote = panel.drawn[place]["vote"]
    return sum(one["vote"] == vote for one in panel.drawn)
