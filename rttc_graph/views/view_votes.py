"""Views of a run, and the vote of their answers: within each transform, then across them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rttc_graph.settings import ViewKind
from rttc_graph.state import Sample
from rttc_graph.views.grid_views import grid_view
from rttc_graph.views.text_views import label_view, name_view, option_view, order_view
from rttc_graph.views.view import Maker, View

__all__ = ("PLAIN_VIEW", "Ballot", "elected", "views_of")

PLAIN_VIEW = "plain"
"""Name of the question as it is, among the transforms."""

_MAKERS: Mapping[ViewKind, Maker] = {
    "order": order_view,
    "options": option_view,
    "labels": label_view,
    "names": name_view,
    "grids": grid_view,
}


def views_of(
    query: str, samples: Sequence[Sample], kinds: Sequence[ViewKind], each: int
) -> list[View]:
    """Return the views of a question with its samples, those of one transform together.

    Args:
        query: The question.
        samples: Solved samples, nearest first.
        kinds: Transforms.
        each: Most views of each.
    """
    made = (_MAKERS[kind](query, samples, n) for kind in kinds for n in range(1, each + 1))
    found: dict[tuple[str, ...], View] = {}
    for view in made:
        if view is not None:
            told = (view.kind, view.query, *(one["question"] for one in view.samples))
            found.setdefault(told, view)  # a short question has few permutations
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """An answer that votes."""

    transform: str
    """Kind of its view, or `PLAIN_VIEW`."""
    vote: str | None
    """Form of the answer in which equal answers are equal; `None` where it cannot be read."""


def elected(ballots: Sequence[Ballot]) -> int:
    """Return the place of the answer that wins: the first with the winning vote.

    Each transform elects one vote of its views, which counts for as many as gave it; what its other
    views say is dropped. Then the transforms, the question as it is among them, elect one of these.
    What comes earlier wins a tie, so that the plain answer stays unless two views agree on another.

    Args:
        ballots: Answers, the plain one first.
    """
    counts: Counter[str] = Counter()
    for transform in dict.fromkeys(one.transform for one in ballots):
        votes = [b.vote for b in ballots if b.transform == transform and b.vote is not None]
        if votes:
            [(vote, count)] = Counter(votes).most_common(1)  # the earlier one of a tie
            counts[vote] += count
    if not counts:
        return 0
    [(vote, _)] = counts.most_common(1)
    return next(place for place, ballot in enumerate(ballots) if ballot.vote == vote)
