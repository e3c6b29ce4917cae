"""Work on the database ends: with a result, one more try, or an error that says what to do."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_fixtures import UNSAFE, open_folder, remove_tree
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool
from tcp_proxy import TcpProxy

from rttc_graph.errors import BackendError, ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database, Source
from rttc_graph.integrations.postgres.database_session import DatabaseSession, WorkStopped
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.statements import statement

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


def one(session: DatabaseSession) -> int:
    row = session.connection.execute("select 1").fetchone()
    assert row is not None
    return int(row[0])


def backend(session: DatabaseSession) -> int:
    return session.connection.info.backend_pid


async def run(database: Database, work: object = one) -> int:
    return await database.execute_work("count", work, error=KnowledgeBaseError)  # type: ignore[arg-type]  # any work


@pytest.fixture
def opened() -> Iterator[Callable[..., Database]]:
    """Open databases that are closed after the test, since closing waits."""
    found: list[Database] = []

    def open_database(source: Source, **limits: Any) -> Database:
        limits.setdefault("connect_timeout_seconds", 2.0)
        found.append(Database(source, **limits))
        return found[-1]

    yield open_database
    for database in found:
        database.close()


@pytest.fixture
def proxied(opened: Callable[..., Database], proxied_dsn: str) -> Database:
    return opened(proxied_dsn)


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    folder = open_folder()
    server = EmbeddedPostgres(folder, conf=UNSAFE).start()
    yield server
    server.stop(force=True)
    remove_tree(folder)


async def test_nothing_connects_before_the_first_use(
    proxied: Database, tcp_proxy: TcpProxy
) -> None:
    assert tcp_proxy.accepted == 0
    assert await run(proxied) == 1
    assert tcp_proxy.accepted > 0


async def test_connections_are_used_again(database: Database) -> None:
    assert await run(database, backend) == await run(database, backend)


async def test_lost_connections_are_replaced(proxied: Database, tcp_proxy: TcpProxy) -> None:
    await asyncio.gather(*(run(proxied) for _ in range(8)))
    tcp_proxy.drop()
    assert await asyncio.gather(*(run(proxied) for _ in range(8))) == [1] * 8


async def test_work_that_loses_its_connection_is_done_once_more(
    proxied: Database, tcp_proxy: TcpProxy
) -> None:
    tries: list[int] = []

    def work(session: DatabaseSession) -> int:
        tries.append(1)
        if len(tries) == 1:
            tcp_proxy.drop()
        return one(session)

    assert await run(proxied, work) == 1
    assert len(tries) == 2


async def test_work_that_always_loses_its_connection_is_done_twice(
    proxied: Database, tcp_proxy: TcpProxy
) -> None:
    tries: list[int] = []

    def work(session: DatabaseSession) -> int:
        tries.append(1)
        tcp_proxy.drop()
        return one(session)

    with pytest.raises(KnowledgeBaseError, match="could not count") as caught:
        await run(proxied, work)
    assert caught.value.retryable
    assert len(tries) == 2


async def test_a_server_that_is_gone_is_an_error_to_retry(
    proxied: Database, tcp_proxy: TcpProxy
) -> None:
    await run(proxied)
    tcp_proxy.refuse()
    with pytest.raises(KnowledgeBaseError, match="could not count") as caught:
        await run(proxied)
    assert caught.value.retryable
    tcp_proxy.refuse(False)
    assert await run(proxied) == 1


async def test_a_server_that_falls_silent_is_given_up(
    opened: Callable[..., Database], proxied_dsn: str, tcp_proxy: TcpProxy
) -> None:
    database = opened(
        proxied_dsn,
        statement_timeout_seconds=0.2,
        silence_seconds=0.2,
    )
    await run(database)
    tcp_proxy.fall_silent()
    with pytest.raises(KnowledgeBaseError) as caught:
        await run(database)
    assert caught.value.retryable


async def test_a_long_statement_is_ended(
    opened: Callable[..., Database], postgres_dsn: str
) -> None:
    database = opened(postgres_dsn, statement_timeout_seconds=0.1)
    tries: list[int] = []

    def sleep(session: DatabaseSession) -> int:
        tries.append(1)
        session.connection.execute("select pg_sleep(30)")
        return 0

    with pytest.raises(KnowledgeBaseError, match="statement_timeout_seconds") as caught:
        await run(database, sleep)
    assert (caught.value.retryable, len(tries)) == (True, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"dbname": "nowhere"}, '"nowhere" does not exist', id="no-database"),
        pytest.param({"user": "noone"}, '"noone" does not exist', id="no-user"),
        pytest.param({"host": "/nonexistent"}, "No such file", id="no-server"),
    ],
)
async def test_a_wrong_dsn_is_reported_in_the_servers_words(
    opened: Callable[..., Database], postgres_dsn: str, change: dict[str, str], reason: str
) -> None:
    database = opened(make_conninfo(postgres_dsn, **change))
    with pytest.raises(KnowledgeBaseError, match=reason):
        await run(database)


async def test_a_dsn_that_is_none_is_reported(
    opened: Callable[..., Database],
) -> None:
    database = opened("postgres:/no such thing")
    with pytest.raises(ConfigurationError, match="address cannot be read"):
        await run(database)


async def test_a_database_without_our_tables_is_told_to_migrate(
    opened: Callable[..., Database], empty_dsn: str
) -> None:
    database = opened(empty_dsn)
    with pytest.raises(KnowledgeBaseError, match="rttc db migrate"):
        await run(database)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
    with pytest.raises(KnowledgeBaseError, match=r"rttc_embedder.*rttc db migrate") as caught:
        await database.execute_work("look", lambda s: s.row("embedder"), error=KnowledgeBaseError)
    assert not caught.value.retryable


async def test_a_killed_server_is_started_again_by_who_knows_how(
    opened: Callable[..., Database],
    own_server: EmbeddedPostgres,
) -> None:
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
        connection.execute("checkpoint")  # this server does not wait for the disk
    plain = opened(own_server.dsn, connect_timeout_seconds=2.0)
    healing = opened(lambda: own_server.start().dsn)
    assert (await run(plain), await run(healing)) == (1, 1)
    pid = (await asyncio.to_thread(own_server.status)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    error: KnowledgeBaseError | None = None
    async with asyncio.timeout(60):
        while error is None:  # a backend outlives its postmaster for a moment
            try:
                await run(plain)
            except KnowledgeBaseError as exc:
                error = exc
    assert error.retryable
    assert await run(healing) == 1
    assert await run(plain) == 1


async def test_a_callers_pool_is_used_and_left_as_it_was(
    opened: Callable[..., Database], postgres_dsn: str
) -> None:
    with ConnectionPool(postgres_dsn, min_size=1, max_size=2, open=True) as pool:
        database = opened(pool)
        assert await run(database) == 1
        with database.connect() as borrowed:
            assert borrowed.autocommit
        await asyncio.to_thread(database.close)
        with pool.connection() as connection:
            assert not connection.autocommit
            assert connection.execute("show statement_timeout").fetchone() == ("0",)


async def test_cancelled_work_stops_before_its_next_statement(database: Database) -> None:
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    raised: list[type[BaseException]] = []

    def work(session: DatabaseSession) -> None:
        started.set()
        go_on.wait()
        try:
            session.row("embedder")
        except WorkStopped as exc:
            raised.append(type(exc))
            raise
        finally:
            ended.set()

    task = asyncio.ensure_future(run(database, work))
    await asyncio.to_thread(started.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert raised == [WorkStopped]
    assert await run(database) == 1


def test_one_database_serves_several_event_loops(database: Database) -> None:
    results: list[int] = []

    async def several() -> None:
        results.extend(await asyncio.gather(*(run(database) for _ in range(5))))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(several())
    assert results == [1] * 25


async def test_a_closed_database_says_so(
    opened: Callable[..., Database], postgres_dsn: str
) -> None:
    database = opened(postgres_dsn)
    await run(database)
    await asyncio.to_thread(database.close)
    with pytest.raises(KnowledgeBaseError, match="closed"):
        await run(database)


async def test_errors_that_are_not_the_drivers_pass_through(database: Database) -> None:
    def work(session: DatabaseSession) -> int:
        del session
        raise BackendError("mine")

    with pytest.raises(BackendError, match=r"^mine$"):
        await run(database, work)


def test_every_statement_says_what_it_returns() -> None:
    text = (Path(__file__).parents[2] / "integrations/postgres/queries.sql").read_text()
    names = [line.removeprefix("-- name: ") for line in text.splitlines() if "-- name: " in line]
    assert len(names) == len(set(names)) > 20
    for name in names:
        assert statement(name).startswith(b"-- ")
        assert statement(name).endswith(b";")


def test_waiting_for_a_connection_has_an_end(
    opened: Callable[..., Database], postgres_dsn: str
) -> None:
    with ConnectionPool(postgres_dsn, min_size=1, max_size=1, open=True) as pool:
        database = opened(pool, connect_timeout_seconds=0.2)
        started = time.monotonic()
        with pool.connection(), pytest.raises(BackendError) as caught:
            asyncio.run(run(database))
        assert caught.value.retryable
        assert time.monotonic() - started < 30
        database.close()
