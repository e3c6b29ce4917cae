"""One piece of work on one connection: named statements, a stop between them, a way out of a hang.

The work runs on a thread of the database's own. Whoever waits for it may ask it to stop at its next
statement, and may cut its connection when a statement shows no sign of life.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from pgvector.psycopg import register_vector
from psycopg import Connection, Cursor, Pipeline
from psycopg.rows import DictRow, dict_row

from rttc_graph.errors import RttcError
from rttc_graph.integrations.postgres.psycopg_errors import DRIVER_ERRORS
from rttc_graph.integrations.postgres.statements import statement

__all__ = ("Session", "WorkStopped")


class WorkStopped(RttcError):
    """Nobody waits for the work any more, so it ended before its next statement."""


class Session:
    """What a piece of work has of the database."""

    lost: bool
    """Whether the last try had no connection, or lost it."""

    def __init__(self) -> None:
        self.lost = True
        self._connection: Connection[Any] | None = None
        self._stop = threading.Event()
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
        self._connection = connection
        try:
            self.step()
            if connection.adapters.types.get("halfvec") is None:
                register_vector(connection)
            yield
        finally:
            self._connection = None
            self.lost = connection.closed

    def stop(self) -> None:
        """Ask the work to end before its next statement; called from another thread."""
        self._stop.set()

    def resume(self) -> None:
        """Go on after a stop, to clean up."""
        self._stop.clear()

    def idle_seconds(self) -> float:
        """Return the time since the last sign of life."""
        return time.monotonic() - self._last_step

    def cut(self) -> None:
        """Shut the connection's socket, which ends a statement that nobody answers.

        The work's thread gets an error and closes the connection: it is not ours to close here.
        """
        self._last_step = time.monotonic()
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(OSError, DRIVER_ERRORS):  # closed meanwhile
            own = socket.socket(fileno=os.dup(connection.fileno()))
            with own:
                own.shutdown(socket.SHUT_RDWR)
