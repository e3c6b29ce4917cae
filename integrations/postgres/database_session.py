"""One piece of work on one connection: named statements, a stop between them, a way out of a hang.

The work runs on a thread of the database's own. Whoever waits for it may end it: it stops before
its next statement, and the one that is running is cancelled on the server. The connection of a
statement that shows no sign of life is cut.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pgvector.psycopg import register_vector
from psycopg import Connection, Cursor, Pipeline
from psycopg.rows import DictRow, dict_row

from rttc_graph.errors import RttcError
from rttc_graph.integrations.concurrency.daemon_threads import on_daemon
from rttc_graph.integrations.postgres.connection_setup import cut
from rttc_graph.integrations.postgres.psycopg_errors import DRIVER_ERRORS
from rttc_graph.integrations.postgres.statements import statement

__all__ = ("CANCEL_SECONDS", "DatabaseSession", "WorkStopped")

CANCEL_SECONDS = 2.0
"""Longest time for cancelling a statement; after it the connection is cut."""


class WorkStopped(RttcError):
    """Nobody waits for the work any more, so it ended before its next statement."""


class DatabaseSession:
    """Access of one piece of work to the database.

    Args:
        patience_seconds: How long it may show no sign of life.
    """

    lost: bool
    """Whether the last try had no connection, or lost it."""
    was_cut: bool
    """Whether the connection was cut, so that another try would probably be as futile."""

    def __init__(self, patience_seconds: float = math.inf) -> None:
        self.lost = True
        self.was_cut = False
        self._patience_seconds = patience_seconds
        self._connection: Connection[Any] | None = None
        self._held: Connection[Any] | None = None  # also while it is given back
        self._stop = threading.Event()
        self._is_spoiled = False
        self._lock = threading.Lock()
        self._last_step = time.monotonic()

    @property
    def connection(self) -> Connection[Any]:
        """The connection, for what is no named statement.

        Raises:
            RuntimeError: The session is not at work.
        """
        if self._connection is None:
            raise RuntimeError("the session has no connection outside of its work")
        return self._connection

    def execute(self, name: str, /, **parameters: Any) -> Cursor[DictRow]:
        """Run a named statement and return its cursor.

        Raises:
            WorkStopped: The caller has gone.
        """
        self.step()
        cursor = self.connection.cursor(row_factory=dict_row, binary=True)
        return cursor.execute(statement(name), parameters)

    def rows(self, name: str, /, **parameters: Any) -> Sequence[DictRow]:
        """Run a named statement and return all its rows."""
        return self.execute(name, **parameters).fetchall()

    def row(self, name: str, /, **parameters: Any) -> DictRow | None:
        """Run a named statement and return its first row, if any."""
        return self.execute(name, **parameters).fetchone()

    @contextmanager
    def together(self) -> Generator[None]:
        """Send the statements of the block without waiting for each: one round trip for all.

        They are one transaction. Their cursors have the rows after the block; an error shows at
        its end.
        """
        if Pipeline.is_supported():
            with self.connection.pipeline():
                yield
        else:  # a libpq older than 14
            with self.connection.transaction():
                yield

    def step(self) -> None:
        """Show a sign of life; called between the parts of long work.

        Raises:
            WorkStopped: The caller has gone.
        """
        self._last_step = time.monotonic()
        if self._stop.is_set():
            raise WorkStopped("the caller was cancelled")

    @contextmanager
    def on(self, connection: Connection[Any]) -> Generator[None]:
        """Work on a connection, which learns pgvector's types unless it knows them."""
        self._connection = self._held = connection
        try:
            self.step()
            if connection.adapters.types.get("halfvec") is None:
                register_vector(connection)
            yield
        finally:
            with self._lock:
                self._connection = None
            self._last_step = time.monotonic()
            self.lost = connection.closed
            if self._is_spoiled:  # a late cancel must not meet the next user's statement
                connection.close()

    def left(self) -> None:
        """Forget the connection, which is its pool's again."""
        self._held = None

    def stop(self) -> None:
        """Ask the work to end before its next statement; called from another thread."""
        self._stop.set()

    def resume(self) -> None:
        """Go on after a stop, to clean up."""
        self._stop.clear()

    def end(self) -> None:
        """Stop the work and cancel the statement that is running; returns at once.

        A connection whose server does not do so within `CANCEL_SECONDS` is cut.
        """
        self._stop.set()
        if self._held is not None:
            on_daemon(self._end, "rttc-postgres-cancel")

    def _end(self) -> None:
        with self._lock:
            connection = self._connection
            self._is_spoiled = connection is not None
        if connection is None:
            return
        on_daemon(lambda: _cancel(connection), "rttc-postgres-cancel")
        end = time.monotonic() + CANCEL_SECONDS
        while self._connection is connection and self._stop.is_set():
            if time.monotonic() > end:
                self.cut()
                return
            time.sleep(0.02)

    def cut_if_silent(self) -> None:
        """Cut the connection if it has shown no sign of life for too long."""
        if time.monotonic() - self._last_step > self._patience_seconds:
            self.cut()

    def cut(self) -> None:
        """Shut the connection's socket, which ends a statement that nobody answers."""
        self._last_step = time.monotonic()  # which counts as a sign of life
        connection = self._held
        if connection is not None:
            self.was_cut = True
            cut(connection)


def _cancel(connection: Connection[Any]) -> None:
    with contextlib.suppress(DRIVER_ERRORS):
        connection.cancel_safe(timeout=CANCEL_SECONDS)
