"""Keeps the lease of an adapter alive while it is trained, and tells when one has ended.

Both run on daemon threads of their own: training may keep every other thread of the process busy,
and those who wait must not hold the threads that the winner needs to store its adapter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from rttc_graph.errors import QueryStateCacheError, RttcError
from rttc_graph.integrations.concurrency.daemon_threads import on_daemon
from rttc_graph.integrations.postgres.cache.adapter_rows import Claim, renew
from rttc_graph.integrations.postgres.connection_setup import cut_after
from rttc_graph.integrations.postgres.database import BACKGROUND_SECONDS, Database
from rttc_graph.integrations.postgres.psycopg_errors import translated

__all__ = ("AdapterNews", "kept_alive")

_LOG = logging.getLogger(__name__)

_LISTEN_SECONDS = 0.5
"""Interval at which the listener checks whether anybody still waits."""


@contextmanager
def kept_alive(database: Database, claim: Claim) -> Generator[None]:
    """Renew a lease three times as often as it would run out.

    A failed renewal is not the end of the training: the adapter is stored in any case, and at worst
    somebody else trains it too.
    """
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(claim.lease_seconds / 3):
            try:
                work = partial(renew, claim=claim)
                if not database.execute_work_here(
                    "renew a lease", work, error=QueryStateCacheError
                ):
                    return
            except RttcError as exc:
                _LOG.warning("the lease of adapter %s was not renewed: %s", claim.key, exc)

    on_daemon(keep, "rttc-postgres-lease")
    try:
        yield
    finally:
        ended.set()


class AdapterNews:
    """One listening connection for all who wait for adapters, while anybody does.

    News may be missed when the connection fails or is unavailable; waiting callers poll anyway.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Future[None]]] = {}
        self._listening = False

    @contextmanager
    def about(self, key: str) -> Generator[Future[None]]:
        """Give a future that is done when something happened to the adapter `key`."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.setdefault(key, set()).add(future)
            if not self._listening and self._database.can_listen:
                self._listening = True
                on_daemon(self._listen, "rttc-postgres-listen")
        try:
            yield future
        finally:
            with self._lock:
                self._waiting[key].discard(future)
                if not self._waiting[key]:
                    del self._waiting[key]

    def _listen(self) -> None:
        try:
            with (
                translated("listen for adapters", QueryStateCacheError),
                self._database.connect() as connection,
            ):
                with cut_after(connection, BACKGROUND_SECONDS):
                    connection.execute("listen rttc_adapter")
                while self._is_wanted():
                    for notice in connection.notifies(timeout=_LISTEN_SECONDS):
                        self._tell(notice.payload)
        except RttcError as exc:
            if not self._database.is_closed:
                _LOG.warning("%s; waiting goes on by asking", exc)
            with self._lock:
                self._listening = False

    def _is_wanted(self) -> bool:
        """Tell whether to go on; the answer no is final, so that the next to wait starts anew."""
        with self._lock:
            self._listening = bool(self._waiting) and not self._database.is_closed
            return self._listening

    def _tell(self, key: str) -> None:
        with self._lock:
            futures = list(self._waiting.get(key, ()))
        for future in futures:
            if not future.done():
                future.set_result(None)
