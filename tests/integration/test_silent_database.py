"""A database that keeps its connections and answers nothing costs what it was asked, no more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from graph_runs import failures, run, until
from installations import Installation
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool
from scripted_parts import Parts
from starvation import starved_seconds
from tcp_proxy import TcpProxy

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.cli.app import main
from rttc_graph.errors import BackendError, KnowledgeBaseError, QueryStateCacheError
from rttc_graph.graph import RttcGraph
from rttc_graph.integrations.postgres import database as database_module
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.calibration_store import PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.migrate import migrate
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.statements import statement
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import CalibratedReward
from rttc_graph.protocols import NewSample, TrainedAdapter
from rttc_graph.state import RttcInput

pytestmark = pytest.mark.usefixtures("no_blocking_calls")

BUDGET_SECONDS = 8.0
THREADS = 3
SOLVED = [NewSample(question=f"{n} and {n}", answer=str(2 * n), domain="sums") for n in range(8)]
QUESTION: RttcInput = {"query": "what is 9 and 9", "domain": "sums"}


statement("recall")  # they are read once, and not on an event loop


def mark(name: str) -> bytes:
    """Return what only the statement `name` has in it."""
    return statement(name).split(b"\n")[0]


def one(session: DatabaseSession) -> int:
    row = session.connection.execute("select 1").fetchone()
    assert row is not None
    return int(row[0])


async def run_one(database: Database) -> int:
    return await database.execute_work("count", one, error=KnowledgeBaseError)


@pytest.fixture
def silent(proxied_dsn: str) -> Iterator[Database]:
    """A database behind the proxy that is patient for two seconds."""
    found = Database(
        proxied_dsn, max_connections=THREADS, statement_timeout_seconds=1.0, silence_seconds=1.0
    )
    yield found
    found.close()


@pytest.fixture
def patient(proxied_dsn: str) -> Iterator[Database]:
    """A database behind the proxy with the limits that hold by default."""
    found = Database(proxied_dsn, max_connections=THREADS)
    yield found
    found.close()


def graph_over(database: Database, **rewards: float) -> RttcGraph:
    scripted = Parts().rewarding(**rewards)
    parts = scripted.parts()
    parts["knowledge_base"] = PostgresKnowledgeBase(database, scripted.embedder)
    parts["cache"] = PostgresQueryStateCache(database)
    parts["ledger_store"] = PostgresLedgerStore(database)
    parts["reward_model"] = CalibratedReward(
        scripted.reward_model, PostgresCalibrationStore(database)
    )
    return create_rttc_graph(**parts)


async def is_whole(database: Database) -> bool:
    """Tell whether every thread of the database answers again, within some seconds."""
    async with asyncio.timeout(5):
        return await asyncio.gather(*(run_one(database) for _ in range(THREADS))) == [1] * THREADS


@pytest.mark.parametrize(
    ("phase", "arm"),
    [
        pytest.param("load_calibration", None, id="judging"),
        pytest.param("recall", "ttt", id="recall"),
        pytest.param("search_scope", None, id="search"),
        pytest.param("claim_adapter", "ttt", id="lease"),
        pytest.param("store_adapter", "ttt", id="store"),
        pytest.param("remember", "ttt", id="remember"),
        pytest.param("append_run", "ttt", id="ledger"),
    ],
)
async def test_a_run_answers_in_its_budget_whatever_falls_silent(
    patient: Database, tcp_proxy: TcpProxy, phase: str, arm: str | None
) -> None:
    graph = graph_over(patient, direct=0.1, rag=0.2, ttt=0.95)
    base = PostgresKnowledgeBase(patient, Parts().embedder)
    vectors = await Parts().embedder.embed([s.question for s in SOLVED])
    await base.ingest(SOLVED, vectors, tenant="default")
    tcp_proxy.silence(mark(phase))
    settings = RttcSettings(
        tau_r=0.9, k=2, budget_seconds=BUDGET_SECONDS, policy="cascade", evidence_similarity=0
    )

    started, starved = time.monotonic(), starved_seconds()
    outputs = await asyncio.gather(
        *(
            run(graph, {**QUESTION, "query": f"what is {n} and 9"}, context=settings)
            for n in range(THREADS)
        )
    )

    took = time.monotonic() - started - (starved_seconds() - starved)
    assert took < BUDGET_SECONDS + 2
    assert tcp_proxy.silenced >= 1
    assert arm is None or arm in {output["arm"] for output in outputs}
    for output in outputs:
        assert output["answer"]
        assert phase == "store_adapter" or failures(output["ledger"])
    tcp_proxy.silence(None)
    await asyncio.sleep(5)  # what nobody waits for is given up in the meantime
    if phase == "store_adapter":
        await asyncio.sleep(database_module.BACKGROUND_SECONDS - 5)
    assert await is_whole(patient)


def test_the_command_line_tells_in_words_of_a_run_that_was_not_stored(
    installed: Installation,
    proxied_dsn: str,
    tcp_proxy: TcpProxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {**installed.described, "RTTC_DATABASE_URL": proxied_dsn}.items():
        monkeypatch.setenv(name, value)
    tcp_proxy.silence(mark("append_run"))
    assert main(["ask", "what is 9 and 9", "--policy", "direct"]) == 0
    said = capsys.readouterr().out
    assert "could not store a run: no answer from the database within 5.0 s" in said
    assert [record for record in caplog.records if record.name == "psycopg.pool"] == []


async def test_an_adapter_that_was_trained_is_given_whatever_becomes_of_it(
    silent: Database, tcp_proxy: TcpProxy
) -> None:
    cache = PostgresQueryStateCache(silent)
    tcp_proxy.silence(mark("store_adapter"))

    async def get(number: int) -> str:
        async def train() -> TrainedAdapter:
            return TrainedAdapter(
                key=f"adapter-{number}",
                weights=b"weights",
                base_fingerprint="base",
                trained_tokens=1,
                steps=1,
                losses=(1.0,),
                seconds=0.1,
                provenance={},
            )

        found = await cache.get_or_train(f"adapter-{number}", base_fingerprint="base", train=train)
        return found.origin

    async with asyncio.timeout(10):
        origins = await asyncio.gather(*(get(number) for number in range(2 * THREADS)))
    assert origins == ["trained"] * 2 * THREADS
    async with asyncio.timeout(20):
        await until(lambda: tcp_proxy.silenced >= THREADS)
        while not await _answers(silent):
            continue


async def _answers(database: Database) -> bool:
    try:
        return await run_one(database) == 1
    except KnowledgeBaseError:
        return False


@pytest.mark.parametrize("way", ["run", "submit", "run_here"])
async def test_every_way_to_work_ends(silent: Database, tcp_proxy: TcpProxy, way: str) -> None:
    await run_one(silent)
    tcp_proxy.fall_silent()
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "run": lambda: run_one(silent),
        "submit": lambda: asyncio.wrap_future(
            silent.submit("count", one, error=KnowledgeBaseError)
        ),
        "run_here": lambda: asyncio.to_thread(
            partial(silent.execute_work_here, "count", one, error=KnowledgeBaseError)
        ),
    }
    started = time.monotonic()
    with pytest.raises(KnowledgeBaseError, match="stopped answering") as caught:
        await ways[way]()
    assert caught.value.retryable
    assert time.monotonic() - started < 10


async def test_a_look_up_does_not_cost_the_budget(patient: Database, tcp_proxy: TcpProxy) -> None:
    cache = PostgresQueryStateCache(patient)
    tcp_proxy.silence(mark("stored_adapter"))
    started = time.monotonic()
    with pytest.raises(QueryStateCacheError, match="no answer from the database within") as caught:
        await cache.load_adapter("key", base_fingerprint="base")
    assert caught.value.retryable
    assert time.monotonic() - started < database_module.BRIEF_SECONDS + 2


async def test_statements_of_callers_that_have_gone_are_cancelled(database: Database) -> None:
    """The thread and its connection are free at once, and nothing goes on at the server."""
    pids: list[int] = []

    def sleep(session: DatabaseSession) -> None:
        pids.append(session.connection.info.backend_pid)
        session.connection.execute("select pg_sleep(40)")

    tasks = [
        asyncio.ensure_future(database.execute_work("sleep", sleep, error=KnowledgeBaseError))
        for _ in range(8)
    ]
    await until(lambda: len(pids) == 8)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(run_one(database) for _ in range(8))) == [1] * 8

    def still_sleeping(session: DatabaseSession) -> int:
        query = (
            "select count(*) from pg_stat_activity where pid = any(%s) and state = 'active' "
            "and query like 'select pg_sleep%%'"
        )
        row = session.connection.execute(query, (pids,)).fetchone()
        assert row is not None
        return int(row[0])

    async with asyncio.timeout(10):
        while await database.execute_work("look", still_sleeping, error=KnowledgeBaseError):
            continue


async def test_closing_has_an_end(proxied_dsn: str, tcp_proxy: TcpProxy) -> None:
    database = Database(proxied_dsn)
    await run_one(database)
    tcp_proxy.fall_silent()
    waiting = asyncio.ensure_future(run_one(database))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await asyncio.to_thread(database.close)
    assert time.monotonic() - started < 12
    with pytest.raises(KnowledgeBaseError):
        await waiting


def test_a_process_can_end(proxied_dsn: str, tcp_proxy: TcpProxy) -> None:
    """Also one that never closes its database."""
    code = """
import sys
from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database
database = Database(sys.argv[1])
for _ in range(8):
    database.submit("look", lambda s: s.row("server_answers"), error=KnowledgeBaseError)
input("sent")
"""
    tcp_proxy.silence(mark("server_answers"))
    command = [sys.executable, "-c", code, proxied_dsn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(os.environ)) as child:
        end = time.monotonic() + 30
        while tcp_proxy.silenced < 8:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(20) == 0


def test_migrating_has_an_end(
    proxied_dsn: str, tcp_proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rttc_graph.integrations.postgres.migrate._SILENCE_SECONDS", 0.5)
    tcp_proxy.silence(b"lock_timeout")
    with pytest.raises(BackendError, match="could not migrate"):
        migrate(proxied_dsn)


async def test_the_first_work_after_an_outage_does_not_wait(
    silent: Database, tcp_proxy: TcpProxy
) -> None:
    await run_one(silent)
    tcp_proxy.refuse()
    end = time.monotonic() + 4  # a pool's attempts would be seconds apart by now
    while time.monotonic() < end:
        with pytest.raises(KnowledgeBaseError):
            await run_one(silent)
        await asyncio.sleep(0.1)
    tcp_proxy.refuse(False)
    started = time.monotonic()
    assert await run_one(silent) == 1
    assert time.monotonic() - started < 1


async def test_a_callers_pool_is_not_waited_for_either(
    proxied_dsn: str, tcp_proxy: TcpProxy
) -> None:
    with ConnectionPool(proxied_dsn, min_size=1, max_size=2, open=True) as pool:
        database = Database(pool, statement_timeout_seconds=0.5, silence_seconds=0.5)
        await run_one(database)
        tcp_proxy.fall_silent()
        started = time.monotonic()
        with pytest.raises(KnowledgeBaseError):
            await run_one(database)
        assert time.monotonic() - started < 10
        await asyncio.to_thread(database.close)
        tcp_proxy.drop()


def test_an_address_that_says_nothing_has_keep_alive(postgres_dsn: str) -> None:
    database = Database(postgres_dsn)
    with database.connect() as connection:
        said = connection.info.get_parameters()
    database.close()
    assert (said["keepalives_idle"], said["tcp_user_timeout"]) == ("30", "30000")


def test_an_address_keeps_what_it_says(postgres_dsn: str) -> None:
    database = Database(make_conninfo(postgres_dsn, keepalives_idle=7))
    with database.connect() as connection:
        assert connection.info.get_parameters()["keepalives_idle"] == "7"
    database.close()
