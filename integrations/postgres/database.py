"""The way to a database for coroutines of any event loop: a pool used on threads of our own.

psycopg's synchronous pool is bound to no loop, so one `Database` serves all loops and threads of a
process. It connects when it is first used. Work that loses its connection is done once more from
its start, so a piece of work is one transaction or may be repeated.

A pool lives as long as its server answers: whoever loses a connection throws the pool away, and the
next work asks the server itself before it makes a new one. So an outage is told in the server's own
words, at once, and the first work after it does not wait for a pool's next attempt.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from rttc_graph.errors import BackendError
from rttc_graph.integrations.concurrency.daemon_threads import DaemonThreads, on_daemon
from rttc_graph.integrations.postgres.connection_setup import (
    completed,
    connection_class,
    encoding_fault,
)
from rttc_graph.integrations.postgres.database_session import CANCEL_SECONDS, DatabaseSession
from rttc_graph.integrations.postgres.psycopg_errors import (
    LOST,
    UNPREPARED,
    UnreachableDatabase,
    UnusableDatabase,
    translated,
)
from rttc_graph.integrations.postgres.silence_watch import SilenceWatch

__all__ = ("BACKGROUND_SECONDS", "BRIEF_SECONDS", "Database", "Source")

T = TypeVar("T")

Source = str | Callable[[], str] | ConnectionPool[Any]
"""A DSN; what returns one, called at the first use and when the server was lost; a pool of the
caller's."""

BRIEF_SECONDS = 5.0
"""Longest wait of a run for what takes milliseconds, such as a recall or a row of the ledger: a
database that stopped answering costs that, not the run's budget."""

BACKGROUND_SECONDS = 10.0
"""Longest silence in work that nobody waits for, such as storing an adapter."""

_CLOSE_SECONDS = 5.0
"""Longest time that `close` waits for running statements before it cancels them."""

_PREPARE_AFTER = 2
"""Executions after which a statement is prepared."""


class Database:
    """Runs pieces of work on pooled connections.

    Args:
        source: Where the database is. A pool stays its caller's: it is neither configured nor
            closed here.
        max_connections: Size of the pool, and of the number of statements that run at once.
        connect_timeout_seconds: Longest wait for a connection.
        statement_timeout_seconds: Longest statement; the server ends it.
        silence_seconds: How much longer a statement may stay unanswered before its connection is
            cut, for servers and networks that have gone without a word.
        pooler: Address of a pooler in transaction mode, such as PgBouncer, that all work goes
            through: nothing is prepared, and no connection is expected to keep a setting. What
            needs a session of its own, as listening and building an index, goes to `source`.
        private: The server is ours alone, so libpq's environment (`PGSERVICE`, `PGHOSTADDR`, …)
            is meant for others and not read.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_connections: int = 8,
        connect_timeout_seconds: float = 10.0,
        statement_timeout_seconds: float = 60.0,
        silence_seconds: float = 10.0,
        pooler: str | None = None,
        private: bool = False,
    ) -> None:
        self._callers: ConnectionPool[Any] | None = None
        self._find: Callable[[], str] = str  # never asked for a caller's pool
        if isinstance(source, str):
            self._find = lambda: source
        elif not isinstance(source, ConnectionPool):
            self._find = source
        else:
            self._callers = source
        self._max_connections = max_connections
        self._connect_timeout_seconds = connect_timeout_seconds
        self._statement_timeout_seconds = statement_timeout_seconds
        self._patience_seconds = statement_timeout_seconds + silence_seconds
        self._connection_class = connection_class(private=private)
        self._pooler = pooler
        self._prepare_after: int | None = _PREPARE_AFTER if pooler is None else None
        self._closed = threading.Event()
        self._dsn: str | None = None
        self._watch = SilenceWatch()
        self._threads_lock = threading.Lock()
        self._pool_lock = threading.Lock()  # held while connecting, so never on an event loop
        self._pool: ConnectionPool[Any] | None = None
        self._threads: DaemonThreads | None = None

    async def execute_work(
        self,
        action: str,
        work: Callable[[DatabaseSession], T],
        *,
        error: type[BackendError],
        within_seconds: float | None = None,
    ) -> T:
        """Do a piece of work on a thread and return its result.

        When the caller is cancelled, the work ends before its next statement, and the one that is
        running is cancelled on the server, so that it does not hold the pool.

        Args:
            action: What it does, for the error's message.
            work: One transaction, or something that may be done twice.
            error: What the driver's errors become.
            within_seconds: Longest wait for the result; without it, until the server or the
                watch ends a statement.
        """
        session = DatabaseSession(self._patience_seconds)
        done = asyncio.wrap_future(self._submit(action, work, error, session))
        limit = asyncio.timeout(within_seconds)
        try:
            async with limit:
                return await done
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise error(
                f"could not {action}: no answer from the database within {within_seconds} s",
                retryable=True,
            ) from exc
        finally:
            session.end()
            done.cancel()

    def submit(
        self,
        action: str,
        work: Callable[[DatabaseSession], T],
        *,
        error: type[BackendError],
        silence_seconds: float = BACKGROUND_SECONDS,
    ) -> Future[T]:
        """Start a piece of work that goes on when its caller is cancelled.

        Args:
            action: What it does, for the error's message.
            work: One transaction, or something that may be done twice.
            error: What the driver's errors become.
            silence_seconds: Longest time without a sign of life.
        """
        return self._submit(action, work, error, DatabaseSession(self._patience(silence_seconds)))

    def execute_work_here(
        self,
        action: str,
        work: Callable[[DatabaseSession], T],
        *,
        error: type[BackendError],
        silence_seconds: float = BACKGROUND_SECONDS,
    ) -> T:
        """Do a piece of work on the calling thread; see `submit`."""
        return self._do(action, work, error, DatabaseSession(self._patience(silence_seconds)))

    def _patience(self, silence_seconds: float) -> float:
        return min(silence_seconds, self._patience_seconds)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; long work outside of the pool ends then."""
        return self._closed.is_set()

    @property
    def can_listen(self) -> bool:
        """Whether `connect` gives connections of our own, which may be held for long."""
        return self._callers is None

    def figures(self) -> dict[str, float]:
        """Return connections `in_use` and `idle`, and pieces of work `waiting` for one; no wait."""
        pool, threads = self._callers or self._pool, self._threads
        found = {} if pool is None else pool.get_stats()
        idle = found.get("pool_available", 0)
        waiting = found.get("requests_waiting", 0) + (0 if threads is None else threads.waiting)
        return {
            "in_use": max(0, found.get("pool_size", 0) - idle),
            "idle": idle,
            "waiting": waiting,
        }

    @contextmanager
    def connect(self) -> Generator[Connection[Any]]:
        """Open a connection outside of the pool, without a limit on its statements.

        With a caller's pool it is one of the pool's, for the time being in autocommit mode.
        """
        if self._callers is not None:
            with self._callers.connection(self._connect_timeout_seconds) as borrowed:
                before = borrowed.autocommit
                borrowed.autocommit = True
                try:
                    yield borrowed
                finally:
                    if not borrowed.closed:
                        borrowed.autocommit = before
            return
        self._opened()  # which finds the server
        own = self._connection_class.connect(
            self._dsn or "", autocommit=True, prepare_threshold=None
        )
        with own:
            yield own

    def close(self) -> None:
        """Close the threads and the pool, if it is ours.

        Statements in hand have some seconds to end, then they are cancelled: no database keeps a
        process from ending.
        """
        self._closed.set()
        with self._threads_lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.close()
            if not threads.have_ended(within_seconds=_CLOSE_SECONDS):
                self._end_all()
                threads.have_ended(within_seconds=CANCEL_SECONDS + 1)
        self._end_all()  # those on threads of others
        with suppress(TimeoutError):  # a thread that connects holds the lock
            on_daemon(self._close_pool).result(CANCEL_SECONDS)

    def _end_all(self) -> None:
        for session in self._watch.sessions():
            session.end()

    def _close_pool(self) -> None:
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(timeout=CANCEL_SECONDS)

    def _submit(
        self,
        action: str,
        work: Callable[[DatabaseSession], T],
        error: type[BackendError],
        session: DatabaseSession,
    ) -> Future[T]:
        with self._threads_lock:
            if self._closed.is_set():
                raise error(f"could not {action}: the database was closed")
            if self._threads is None:
                self._threads = DaemonThreads(self._max_connections, "rttc-postgres")
            return self._threads.submit(partial(self._do, action, work, error, session))

    def _do(
        self,
        action: str,
        work: Callable[[DatabaseSession], T],
        error: type[BackendError],
        session: DatabaseSession,
    ) -> T:
        with translated(action, error):
            try:
                return self._once(work, session)
            except UNPREPARED:  # a pooler changes the server's session between transactions
                if self._callers is not None or self._prepare_after is None:
                    raise
                self._prepare_after = None
                self._forget(self._pool)
            except LOST as exc:
                if session.was_cut:
                    raise UnreachableDatabase("the database stopped answering") from exc
                if not session.lost:
                    raise
            session.step()
            return self._once(work, session)

    def _once(self, work: Callable[[DatabaseSession], T], session: DatabaseSession) -> T:
        session.lost = False  # a server that cannot be reached now is not asked a second time
        pool = self._opened()
        session.lost = True  # until there is a connection
        self._watch.begin(session)
        try:
            with pool.connection(self._connect_timeout_seconds) as found, session.on(found):
                return work(session)
        except PoolTimeout:
            if not pool.get_stats().get("connections_errors"):  # all are in use, none is lost
                session.lost = False
                raise
            self._forget(pool)
            raise
        except LOST:
            if session.lost:
                self._forget(pool)
            raise
        finally:
            self._watch.end(session)

    def _opened(self) -> ConnectionPool[Any]:
        if self._callers is not None:
            return self._callers
        with self._pool_lock:
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> ConnectionPool[Any]:
        self._dsn, address = self._probe()
        pool = ConnectionPool(
            address,
            connection_class=self._connection_class,
            kwargs={"autocommit": True, "prepare_threshold": self._prepare_after},
            min_size=0,
            max_size=self._max_connections + 1,  # one for the threads that renew leases
            configure=self._configure,
            open=False,
            reconnect_timeout=0.0,  # whoever waits asks the server itself, and hears why
            reconnect_failed=self._forget,
            num_workers=1,
            name="rttc-graph",
        )
        pool.open()
        return pool

    def _configure(self, connection: Connection[Any]) -> None:
        if self._pooler is not None:  # it would hold for whoever gets the server's session next
            return
        milliseconds = f"{self._statement_timeout_seconds * 1000:.0f}"
        connection.execute("select set_config('statement_timeout', %s, false)", (milliseconds,))

    def _forget(self, pool: ConnectionPool[Any] | None) -> None:
        """Throw a pool away whose server may be gone; a caller's loses its dead connections."""
        if pool is not None and pool is self._callers:
            with suppress(TimeoutError):  # its idle connections may be silent too
                on_daemon(pool.check).result(CANCEL_SECONDS)
            return
        with self._pool_lock:
            if pool is None or pool is not self._pool:
                return
            self._pool = None
        on_daemon(pool.close)  # waits for the pool's own threads

    def _probe(self) -> tuple[str, str]:
        """Return the DSN of the server, and that of what answers for it: itself, or its pooler.

        A pool would say "timeout", this says why.
        """
        try:
            address = self._find()
        except BackendError as exc:  # becomes the error of whoever needs the database
            kind = UnreachableDatabase if exc.retryable else UnusableDatabase
            raise kind(str(exc)) from exc
        dsn = completed(address, connect_timeout_seconds=self._connect_timeout_seconds)
        asked = dsn
        if self._pooler is not None:
            asked = completed(self._pooler, connect_timeout_seconds=self._connect_timeout_seconds)
        with self._connection_class.connect(asked, autocommit=True) as connection:
            fault = encoding_fault(connection)
        if fault is not None:
            raise UnusableDatabase(fault)
        return dsn, asked
