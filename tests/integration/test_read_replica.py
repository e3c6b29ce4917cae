"""Searches on a real streaming replica, and on the primary while that is behind or down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from http_servers import until
from postgres_fixtures import NumberEmbedder, open_folder, remove_tree
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from scripted_parts import Parts

from rttc_graph.graph import create_rttc_graph
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.embedded_server.programs import Account, find_programs
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.samples.read_replica import ReadReplica
from rttc_graph.protocols import NewSample, SearchResult

EMBEDDER = NumberEmbedder()


@dataclass
class Standby:
    """A copy of the session's server that follows it."""

    folder: Path
    programs: Any

    def run(self, program: str, *arguments: str) -> None:
        status, output = self.programs.run(program, *arguments, timeout_seconds=60)
        assert status == 0, output

    def address(self, dsn: str) -> str:
        return make_conninfo(dsn, host=str(self.folder))

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-D", str(self.folder / "data"), "-m", "immediate", "-w")


@pytest.fixture
def standby(postgres_server: EmbeddedPostgres, postgres_dsn: str) -> Iterator[Standby]:
    folder = open_folder()
    folder.chmod(0o777)
    account = Account.nobody() if Account.current().uid == 0 else Account.current()
    found = Standby(folder, find_programs(account))
    server = conninfo_to_dict(postgres_server.dsn)
    data = str(folder / "data")
    found.run(
        *("pg_basebackup", "-D", data, "-h", str(server["host"]), "-p", str(server["port"])),
        *("-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync"),
    )
    options = f"-c unix_socket_directories={folder} -c max_connections=100 -c fsync=off"
    log = str(folder / "log")
    found.run(
        *("pg_ctl", "start", "-D", data, "-w", "-l", log),
        *("-o", f"{options} -c listen_addresses='' -c shared_buffers=32MB"),
    )
    try:
        yield found
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            found.stop()
        remove_tree(folder)


async def store(knowledge_base: PostgresKnowledgeBase, number: int) -> None:
    new = NewSample(question=f"question {number}", answer=str(number), domain="math")
    await knowledge_base.ingest([new], await EMBEDDER.embed([new.question]), tenant="t")


async def search(knowledge_base: PostgresKnowledgeBase, number: int) -> SearchResult:
    (vector,) = await EMBEDDER.embed([f"question {number}"])
    return await knowledge_base.search(vector, k=1, domain="math", tenant="t")


def test_a_replica_is_searched_while_it_is_there_and_near(
    standby: Standby, database: Database, postgres_dsn: str
) -> None:
    now = [0.0]
    copy = Database(standby.address(postgres_dsn), pooler=standby.address(postgres_dsn))
    replica = ReadReplica(copy, most_lag_seconds=1000, clock=lambda: now[0])
    mine = PostgresKnowledgeBase(database, EMBEDDER, replica=replica)
    strict = PostgresKnowledgeBase(
        database, EMBEDDER, replica=ReadReplica(copy, most_lag_seconds=0)
    )
    others = PostgresKnowledgeBase(database, EMBEDDER)
    with psycopg.connect(standby.address(postgres_dsn), autocommit=True) as admin:

        def has(number: int) -> bool:
            query = "select count(*) from rttc_sample where answer = %s"
            row = admin.execute(query, (str(number),)).fetchone()
            return row == (1,)

        asyncio.run(store(mine, 1))
        until(lambda: has(1))
        found = asyncio.run(search(mine, 1))
        assert (found.samples[0]["answer"], found.fallback) == ("1", "")

        admin.execute("select pg_wal_replay_pause()")
        asyncio.run(store(others, 2))  # which this copy does not know
        found = asyncio.run(search(mine, 2))
        assert (found.samples[0]["answer"], found.fallback) == ("1", "")
        until(lambda: "s behind (database_read_lag" in asyncio.run(search(strict, 2)).fallback)
        assert asyncio.run(search(strict, 2)).samples[0]["answer"] == "2"

        asyncio.run(store(mine, 3))  # its own write is always found
        found = asyncio.run(search(mine, 3))
        assert found.samples[0]["answer"] == "3"
        assert found.fallback == "the read replica has not yet what this process has written"
        admin.execute("select pg_wal_replay_resume()")
        until(lambda: has(3))
        assert asyncio.run(search(mine, 3)).fallback != ""  # it is left alone for a moment
        now[0] += 6
        assert asyncio.run(search(mine, 3)).fallback == ""

    standby.stop()
    found = asyncio.run(search(mine, 3))
    assert found.samples[0]["answer"] == "3"
    assert found.fallback == "the read replica does not answer"
    copy.close()


def test_the_ledger_says_that_another_server_was_searched() -> None:
    parts = Parts()
    plain = parts.knowledge_base.search

    async def diverted(*given: Any, **more: Any) -> SearchResult:
        found = await plain(*given, **more)
        return SearchResult(
            samples=found.samples, revision=found.revision, fallback="the copy is 12 s behind"
        )

    parts.knowledge_base.search = diverted  # type: ignore[method-assign]
    output = asyncio.run(create_rttc_graph(**parts.parts()).ainvoke({"query": "q"}))
    (entry,) = [entry for entry in output["ledger"] if entry["event"] == "diverted"]
    assert entry["detail"] == {"what": "the search", "reason": "the copy is 12 s behind"}
