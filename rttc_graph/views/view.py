"""A view of a question with its samples, and how answers come back from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rttc_graph.settings import ViewKind
from rttc_graph.state import Sample

__all__ = ("View", "renamed_sample")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A question with its samples as one transform writes them."""

    kind: ViewKind
    number: int
    """Number among the views of its kind, from 1."""
    query: str
    samples: tuple[Sample, ...]
    """Samples in the order in which the prompt takes them, nearest first."""
    undo: Callable[[str], str | None]
    """Returns an answer as it would be without the transform; `None` where it cannot be read."""

    @property
    def name(self) -> str:
        """Name in the ledger."""
        return f"{self.kind} {self.number}"


def renamed_sample(sample: Sample, question: str, answer: str) -> Sample:
    """Return a sample with other texts, under the id of the one that it was made from."""
    return {**sample, "question": question, "answer": answer}


def as_it_is(text: str) -> str:
    """Return an answer unchanged, for transforms that leave answers alone."""
    return text


Maker = Callable[[str, Sequence[Sample], int], View | None]
"""Makes the view of a question with its samples by a number from 1; `None` where the transform has
nothing to change in the question, or no further view."""
