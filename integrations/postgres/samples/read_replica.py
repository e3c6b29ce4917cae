"""A copy of the database that searches are asked of first, with the way back to the primary.

A copy may be down, and it is always a little behind. So each search asks it first how far: a copy
that is too far behind, or has not yet what this process has written, is not searched. Whoever falls
back does not ask it again for some seconds, so that an outage costs one search a wait, not all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rttc_graph.errors import KnowledgeBaseError, RttcError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession

__all__ = ("ReadReplica",)

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_PATIENCE_SECONDS = 2.0
"""Longest wait for a copy: a search takes milliseconds, and the primary can do it too."""

_PAUSE_SECONDS = 5.0
"""Time for which a copy that could not be used is left alone."""


@dataclass(frozen=True, slots=True)
class _TooOld:
    """What is said of a copy that is not searched."""

    why: str


class ReadReplica:
    """A copy of the database for reading.

    Args:
        database: Connections to it; they stay their owner's to close.
        most_lag_seconds: How far behind it may be.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        database: Database,
        *,
        most_lag_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._most_lag_seconds = most_lag_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_until = 0.0
        self._why = ""
        self._written: str | None = None

    def note_write(self, session: DatabaseSession) -> None:
        """Note, on the primary and after a write, what a copy must have to be searched again."""
        row = session.row("written_until")
        with self._lock:
            self._written = None if row is None else row["position"]

    async def read(self, action: str, work: Callable[[DatabaseSession], T]) -> tuple[T | None, str]:
        """Return what the work found on the copy, or `None` and why it was not done there.

        Args:
            action: What it does, for logs.
            work: Reads, and writes nothing.
        """
        with self._lock:
            if self._clock() < self._paused_until:
                return None, self._why
            written = self._written
        try:
            found = await self._database.execute_work(
                f"{action} on the read replica",
                partial(self._checked, work=work, written=written),
                error=KnowledgeBaseError,
                within_seconds=_PATIENCE_SECONDS,
            )
        except RttcError as exc:
            _LOG.warning("%s; the primary is asked for %.0f s", exc, _PAUSE_SECONDS)
            return None, self._pause("the read replica does not answer")
        if isinstance(found, _TooOld):
            return None, self._pause(found.why)
        return found, ""

    def _pause(self, why: str) -> str:
        with self._lock:
            self._paused_until = self._clock() + _PAUSE_SECONDS
            self._why = why
        return why

    def _checked(
        self, session: DatabaseSession, *, work: Callable[[DatabaseSession], T], written: str | None
    ) -> T | _TooOld:
        row = session.row("replica_state", written=written)
        assert row is not None  # the statement has one row
        if not row["has_written"]:
            return _TooOld("the read replica has not yet what this process has written")
        if row["lag_seconds"] > self._most_lag_seconds:
            return _TooOld(
                f"the read replica is {row['lag_seconds']:.1f} s behind "
                f"(database_read_lag_seconds={self._most_lag_seconds:g})"
            )
        return work(session)
