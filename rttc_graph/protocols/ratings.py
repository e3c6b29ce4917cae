"""The seam to what keeps people's ratings of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from rttc_graph.state import Candidate

Correction = Literal["none", "pending", "stored", "rejected"]
"""State of a rating's right answer: none came, it waits for approval, it is a sample, or it was
turned down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A person's word on one run."""

    run_id: str
    is_right: bool
    answer: str | None = None
    """The right answer, where one was given."""
    note: str | None = None
    correction: Correction = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRun:
    """A rating with the run that it is about."""

    rating: Rating
    query: str
    domain: str | None
    """Domain that the run named."""
    answered: str
    """Text that the run returned."""
    source_domain: str | None = None
    """Domain of the nearest sample that the answer rests on."""
    candidate: Candidate | None = None
    """Candidate that was taken; `None` for runs that were stored before runs kept it."""
    declined: bool = False
    """Whether the run returned the text that declines instead of the candidate's answer."""


class RatingStore(Protocol):
    """Keeps one rating a run; a later one takes its place."""

    async def rate(self, rating: Rating, *, tenant: str) -> RatedRun:
        """Store a rating.

        Raises:
            ConfigurationError: The tenant has no such run.
            BackendError: It was not stored.
        """
        ...

    async def rated_run(self, run_id: str, *, tenant: str) -> RatedRun:
        """Return a run with its rating.

        Raises:
            ConfigurationError: The tenant has no such run, or it was not rated.
            BackendError: It cannot be read.
        """
        ...

    async def rated_runs(self, *, tenant: str, pending: bool = False) -> list[RatedRun]:
        """Return the tenant's rated runs, newest rating first.

        Args:
            tenant: Tenant whose runs are listed.
            pending: Whether to return only those whose correction waits for approval.
        """
        ...
