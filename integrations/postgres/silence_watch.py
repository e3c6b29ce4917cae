"""Watch over all work on one database: a session that stays silent loses its connection."""

from __future__ import annotations

import threading
import time

from rttc_graph.integrations.postgres.database_session import DatabaseSession

__all__ = ("SilenceWatch",)

_LOOK_SECONDS = 0.25
_LOOKS_WITHOUT_WORK = 20
"""Checks without work after which the thread ends; new work starts another."""


class SilenceWatch:
    """One daemon thread for all sessions of a database, while there are any.

    A timer for each session would cost each look-up a thread or a call of the event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: set[DatabaseSession] = set()
        self._thread: threading.Thread | None = None

    def begin(self, session: DatabaseSession) -> None:
        """Look after a session that is about to use a connection."""
        with self._lock:
            self._sessions.add(session)
            if self._thread is None or not self._thread.is_alive():  # not alive: after a fork
                self._thread = threading.Thread(
                    target=self._look, name="rttc-postgres-watch", daemon=True
                )
                self._thread.start()

    def end(self, session: DatabaseSession) -> None:
        """Look after the session no more: its connection is its pool's again."""
        with self._lock:
            self._sessions.discard(session)
        session.left()

    def sessions(self) -> list[DatabaseSession]:
        """Return the sessions that are at work."""
        with self._lock:
            return list(self._sessions)

    def _look(self) -> None:
        without_work = 0
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                sessions = list(self._sessions)
                without_work = 0 if sessions else without_work + 1
                if without_work > _LOOKS_WITHOUT_WORK:
                    self._thread = None
                    return
            for session in sessions:
                session.cut_if_silent()
