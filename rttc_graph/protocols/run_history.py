"""The seam to finished runs, for people who look back at them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.ledgers import RunRecord
from rttc_graph.protocols.ratings import Rating

__all__ = (
    "LISTED_CHARACTERS",
    "MAX_PAGE_RUNS",
    "FinishedRun",
    "RatedAs",
    "RunFilter",
    "RunHistory",
    "RunPage",
    "RunStatistics",
    "checked_run_page",
)

MAX_PAGE_RUNS = 200
"""Most runs of one page: with their ledgers some hundred kilobytes."""

LISTED_CHARACTERS = 500
"""Characters of question and answer that a list has of each run."""

RatedAs = Literal["right", "wrong", "none"]
"""Rating of a run by a person; `none` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are meant: those for which all of these hold."""

    domain: str | None = None
    """The run named this domain; empty for runs that named none; `None` for any."""
    arm: str | None = None
    """This arm gave the answer; `None` for any."""
    accepted: bool | None = None
    """Whether the answer reached τr; `None` for both."""
    rated: RatedAs | None = None
    """Rating of the answer; `None` for any, and for none."""
    first_day: date | None = None
    """Earliest day in UTC, itself included."""
    last_day: date | None = None
    """Latest day in UTC, itself included."""
    contains: str | None = None
    """Question or answer has this text in it, whatever the case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run as it is stored."""

    run: RunRecord
    created_at: datetime
    rating: Rating | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Some runs of a list, the newest first.

    Question and answer are cut to `LISTED_CHARACTERS`, and there are no sources or candidates.
    """

    runs: list[FinishedRun]
    next: str | None
    """Value of `after` for the next page; `None` at the end of the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """Figures of the runs of one domain that one arm answered on one day (UTC)."""

    domain: str
    """Empty for runs that named none."""
    day: date
    arm: str
    """Arm whose answer was returned."""
    runs: int
    accepted: int
    """Runs whose answer reached τr."""
    seconds: float
    """Seconds of all runs together."""
    tokens: int
    look_ups: int
    """Times that the query-state cache was asked."""
    samples_hits: int
    adapter_hits: int
    """Adapters recalled for a near query, or found under the digest of their samples."""
    seconds_saved: float
    """Training that adapter hits made needless, less what the look-ups took."""


class RunHistory(Protocol):
    """Finds finished runs again."""

    async def list_runs(
        self, which: RunFilter, *, tenant: str, limit: int, after: str | None = None
    ) -> RunPage:
        """Return a page of a tenant's runs, newest first.

        Args:
            which: The runs that are meant.
            tenant: Tenant whose runs they are.
            limit: Runs of the page, 1 to `MAX_PAGE_RUNS`.
            after: `RunPage.next` of the page before; the first page without.

        Raises:
            ConfigurationError: `limit` is out of range, or `after` is of no page.
            BackendError: The runs cannot be read.
        """
        ...

    async def find_run(self, run_id: str, *, tenant: str) -> FinishedRun | None:
        """Return a run with everything that is stored of it; `None` if the tenant has none such.

        Raises:
            BackendError: It cannot be read.
        """
        ...

    async def statistics(self, *, tenant: str, days: int | None = None) -> list[RunStatistics]:
        """Return the tenant's runs by domain, day and arm, newest day first.

        Args:
            tenant: Tenant whose runs count.
            days: How far back; `None` for all.
        """
        ...


def checked_run_page(limit: int, after: str | None) -> tuple[int | None, str]:
    """Return time and id of the run that a page comes after, `None` and empty for the first page.

    The time is in microseconds since 1970.

    Raises:
        ConfigurationError: `limit` is out of range, or `after` is of no page.
    """
    if not 1 <= limit <= MAX_PAGE_RUNS:
        raise ConfigurationError(f"limit={limit!r} must be 1 to {MAX_PAGE_RUNS}")
    if after is None:
        return None, ""
    digits, _, run_id = after.partition(":")
    if not run_id or not digits.isascii() or not digits.isdecimal() or len(digits) > _MOST_DIGITS:
        raise ConfigurationError(
            f"after={after[:80]!r} is not the end of a page: give the page's 'next', or nothing"
        )
    return int(digits), run_id


_MOST_DIGITS = 17
"""Digits of a time in microseconds; 17 of them last until the year 5138."""
