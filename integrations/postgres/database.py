"""The way to a database for coroutines of any event loop: a pool used on threads of our own.

psycopg's synchronous pool is bound to no loop, so one `Database` serves all loops and threads of a
process. It connects when it is first used. Work that loses its connection is done once more from
its start, so a piece of work is one transaction or may be repeated.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

from rttc_graph.errors import BackendError
from rttc_graph.integrations.postgres.database_session import Session
from rttc_graph.integrations.postgres.psycopg_errors import LOST, translated

__all__ = ("Database", "Source")

T = TypeVar("T")

Source = str | Callable[[], str] | ConnectionPool[Any]
"""A DSN; what returns one, called at the first use and when the server was lost; a pool of the
caller's."""

_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "application_name": "rttc-graph",
}


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
    """

    def __init__(
        self,
        source: Source,
        *,
        max_connections: int = 8,
        connect_timeout_seconds: float = 10.0,
        statement_timeout_seconds: float = 60.0,
        silence_seconds: float = 10.0,
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
        self._closed = threading.Event()
        self._dsn: str | None = None
        self._threads_lock = threading.Lock()
        self._pool_lock = threading.Lock()  # held while connecting, so never on an event loop
        self._pool: ConnectionPool[Any] | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def run(
        self, action: str, work: Callable[[Session], T], *, error: type[BackendError]
    ) -> T:
        """Do a piece of work on a thread and return its result.

        Args:
            action: What it does, for the error's message.
            work: One transaction, or something that may be done twice.
            error: What the driver's errors become.
        """
        session = Session()
        done = asyncio.wrap_future(self._submit(action, work, error, session))
        watchdog = _Watchdog(session, self._patience_seconds)
        try:
            return await done
        finally:
            watchdog.stop()
            session.stop()
            done.cancel()

    def submit(
        self, action: str, work: Callable[[Session], T], *, error: type[BackendError]
    ) -> Future[T]:
        """Start a piece of work that goes on when its caller is cancelled."""
        return self._submit(action, work, error, Session())

    def run_here(
        self, action: str, work: Callable[[Session], T], *, error: type[BackendError]
    ) -> T:
        """Do a piece of work on the calling thread."""
        return self._do(action, work, error, Session())

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; long work outside of the pool ends then."""
        return self._closed.is_set()

    @property
    def can_listen(self) -> bool:
        """Whether `connect` gives connections of our own, which may be held for long."""
        return self._callers is None

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
        self._opened()
        with psycopg.connect(self._dsn or "", autocommit=True) as own:
            yield own

    def close(self) -> None:
        """Wait for running statements, then close the threads and the pool, if it is ours."""
        self._closed.set()
        with self._threads_lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _submit(
        self,
        action: str,
        work: Callable[[Session], T],
        error: type[BackendError],
        session: Session,
    ) -> Future[T]:
        with self._threads_lock:
            if self._closed.is_set():
                raise error(f"could not {action}: the database was closed")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._max_connections, "rttc-postgres")
            return self._threads.submit(self._do, action, work, error, session)

    def _do(
        self,
        action: str,
        work: Callable[[Session], T],
        error: type[BackendError],
        session: Session,
    ) -> T:
        with translated(action, error):
            try:
                return self._once(work, session)
            except LOST:
                if not session.lost:
                    raise
            self._reconnect()
            return self._once(work, session)

    def _once(self, work: Callable[[Session], T], session: Session) -> T:
        session.lost = True  # until there is a connection
        pool = self._opened()
        with pool.connection(self._connect_timeout_seconds) as found, session.on(found):
            return work(session)

    def _opened(self) -> ConnectionPool[Any]:
        if self._callers is not None:
            return self._callers
        with self._pool_lock:
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> ConnectionPool[Any]:
        self._dsn = self._probe()
        pool = ConnectionPool(
            self._dsn,
            kwargs={"autocommit": True, "prepare_threshold": 2},
            min_size=0,
            max_size=self._max_connections + 1,  # one for the threads that renew leases
            configure=self._configure,
            open=False,
            num_workers=1,
            name="rttc-graph",
        )
        pool.open()
        return pool

    def _configure(self, connection: Connection[Any]) -> None:
        milliseconds = f"{self._statement_timeout_seconds * 1000:.0f}"
        connection.execute("select set_config('statement_timeout', %s, false)", (milliseconds,))

    def _reconnect(self) -> None:
        """Make sure that the server is there, and replace the pool's dead connections."""
        if self._callers is None:
            self._probe()
        self._opened().check()

    def _probe(self) -> str:
        """Return the DSN of a server that answers; a pool would say "timeout", this says why."""
        given = self._find()
        known = conninfo_to_dict(given)
        connect_timeout = max(2, round(self._connect_timeout_seconds))  # libpq knows no less
        more = {"connect_timeout": connect_timeout, **_KEEPALIVE}
        dsn = make_conninfo(given, **{k: v for k, v in more.items() if k not in known})
        psycopg.connect(dsn).close()
        return dsn


class _Watchdog:
    """Cuts the connection of a session that shows no sign of life.

    A timer that rarely does anything: `asyncio.wait` with a time-out costs 0.04 ms more a call.
    """

    def __init__(self, session: Session, patience_seconds: float) -> None:
        self._session = session
        self._patience_seconds = patience_seconds
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(patience_seconds, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._patience_seconds - self._session.idle_seconds()
        if left <= 0:
            self._session.cut()  # which counts as a sign of life
            left = self._patience_seconds
        self._timer = self._loop.call_later(max(0.05, left), self._look)
