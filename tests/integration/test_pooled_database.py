"""A real PgBouncer in transaction mode before a real server: all work of the stores through it."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from http_servers import until
from postgres_fixtures import NumberEmbedder, open_folder, remove_tree
from psycopg.conninfo import conninfo_to_dict

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import NewSample, TrainedAdapter
from rttc_graph.testing import trained_adapter

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer")

SESSIONS = 2
"""Sessions of the server behind the pooler: fewer than clients, so that they take turns."""


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def pooler(postgres_server: EmbeddedPostgres) -> Iterator[int]:
    """Port of a pooler in transaction mode before the session's server, as it comes."""
    folder, port = open_folder(), _free_port()
    server = conninfo_to_dict(postgres_server.dsn)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server['host']} port={server['port']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        f"unix_socket_dir =\npool_mode = transaction\ndefault_pool_size = {SESSIONS}\n"
    )
    drop: dict[str, Any] = {}
    if os.geteuid() == 0:  # neither it nor the server's socket is for root
        account = pwd.getpwnam("nobody")
        drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
    process = subprocess.Popen(
        [str(PGBOUNCER), "-q", str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL, **drop
    )
    try:
        until(lambda: _answers(port))
        yield port
    finally:
        process.terminate()
        process.wait()
        remove_tree(folder)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def through(port: int, dsn: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{conninfo_to_dict(dsn)['dbname']}"


@pytest.fixture
def pooled(pooler: int, postgres_dsn: str) -> Iterator[Database]:
    found = Database(postgres_dsn, pooler=through(pooler, postgres_dsn))
    yield found
    found.close()


def sample(number: int) -> NewSample:
    return NewSample(question=f"question {number}", answer=str(number), domain="math")


@needs_pgbouncer
def test_samples_are_stored_indexed_and_searched_by_many_at_once(pooled: Database) -> None:
    embedder = NumberEmbedder(8)  # vectors of three numbers are too few for 40
    knowledge_base = PostgresKnowledgeBase(pooled, embedder, index_rows=20, auto_index=False)

    async def go() -> None:
        for first in (0, 20):
            samples = [sample(number) for number in range(first, first + 20)]
            vectors = await embedder.embed([one.question for one in samples])
            await knowledge_base.ingest(samples, vectors, tenant="t")
        assert await knowledge_base.build_indexes() == ["math"]  # by a session of its own
        asked = await embedder.embed([f"question {number}" for number in range(32)])
        for _ in range(3):  # as often as prepares a statement
            found = await asyncio.gather(
                *(knowledge_base.search(v, k=1, domain="math", tenant="t") for v in asked)
            )
            assert [one.samples[0]["answer"] for one in found] == [str(n) for n in range(32)]
        assert await knowledge_base.delete(domain="math", tenant="t") == 40

    asyncio.run(go())


@needs_pgbouncer
def test_an_adapter_is_trained_once_and_waited_for(pooled: Database) -> None:
    caches = [PostgresQueryStateCache(pooled) for _ in range(3)]
    trained: list[str] = []

    async def train() -> TrainedAdapter:
        trained.append("once")
        await asyncio.sleep(0.1)
        return trained_adapter("key")

    async def go() -> None:
        found = await asyncio.gather(
            *(
                cache.get_or_train(
                    "key", base_fingerprint=trained_adapter("key").base_fingerprint, train=train
                )
                for cache in caches
            )
        )
        assert len({one.adapter.key for one in found}) == 1

    asyncio.run(go())
    assert trained == ["once"]


@needs_pgbouncer
def test_no_session_of_the_server_keeps_what_ours_has_set(
    pooler: int, pooled: Database, postgres_dsn: str
) -> None:
    for _ in range(4):
        pooled.execute_work_here("ask", lambda s: s.row("server_answers"), error=BackendError)
    with psycopg.connect(
        through(pooler, postgres_dsn), autocommit=True, prepare_threshold=None
    ) as other:
        for _ in range(2 * SESSIONS):
            row = other.execute("select current_setting('statement_timeout')").fetchone()
            prepared = other.execute("select count(*) from pg_prepared_statements").fetchone()
            assert (row, prepared) == (("0",), (0,))


@pytest.mark.parametrize("name", ["database_pooler_url", "database_read_url"])
def test_an_address_without_a_server_is_refused(name: str, tmp_path: Path) -> None:
    address: dict[str, Any] = {name: "postgresql://u:secret@h/d"}
    config = InstallationConfig(home=tmp_path, **address)
    refused = pytest.raises(ConfigurationError, match=f"{name} is set without")
    with refused as caught, open_knowledge(config):
        pass
    assert "secret" not in str(caught.value) + repr(config)
