"""A real Postgres for tests: one server a session, one migrated template, one clone a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tcp_proxy import TcpProxy

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.migrate import migrate
from rttc_graph.protocols import Embedder
from rttc_graph.testing import REWRITTEN

pytest.register_assert_rewrite(*REWRITTEN)

UNSAFE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
}
"""Settings of a server whose data nobody will miss, and which takes little room."""

IN_MEMORY, ROOM = Path("/dev/shm"), 2**31
"""Where a clone of the template takes 25 ms instead of 130, and the free bytes that this needs."""

_NUMBERS = itertools.count(1)


class NumberEmbedder:
    """Vectors of a fixed length; embeds nothing but numbers."""

    def __init__(self, dimension: int = 3, fingerprint: str = "fingerprint") -> None:
        self.name = f"numbers-{dimension}"
        self._dimension = dimension
        self._fingerprint = fingerprint
        self.embedded: list[str] = []

    async def fingerprint(self) -> str:
        return self._fingerprint

    async def dimension(self) -> int:
        return self._dimension

    async def embed(self, texts: Any) -> list[list[float]]:
        self.embedded += texts
        return [_spread(int(text.split()[-1]), self._dimension) for text in texts]


def _spread(number: int, dimension: int) -> list[float]:
    """Return a vector that is the same for the same number and points anywhere."""
    values = [
        ((number + 1) * (place * 7919 + 104729) % 1009) / 504.5 - 1 for place in range(dimension)
    ]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def open_folder() -> Path:
    """Return a new folder that others may enter, so that root's server has its data there."""
    is_roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="rttc-", dir=IN_MEMORY if is_roomy else None))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The server of the session."""
    folder = open_folder()
    server = EmbeddedPostgres(folder, conf={**UNSAFE, "max_connections": "100"}).start()
    try:
        yield server
    finally:
        server.stop(force=True)
        remove_tree(folder)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a migrated database that nobody connects to."""
    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute("create database rttc_template")
    migrate(make_conninfo(postgres_server.dsn, dbname="rttc_template"))
    return "rttc_template"


@pytest.fixture
def postgres_dsn(postgres_server: EmbeddedPostgres, postgres_template: str) -> Iterator[str]:
    """DSN of a migrated, empty database of the test's own."""
    with cloned(postgres_server.dsn, postgres_template) as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """DSN of a database with nothing in it, not even pgvector."""
    with cloned(postgres_server.dsn, "template0") as dsn:
        yield dsn


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[Database]:
    """A database object over the test's own database."""
    found = Database(postgres_dsn, connect_timeout_seconds=5.0)
    yield found
    found.close()


@pytest.fixture
def embedder() -> Embedder:
    """An embedder of dimension 3."""
    return NumberEmbedder()


@pytest.fixture
def tcp_proxy(postgres_server: EmbeddedPostgres) -> Iterator[TcpProxy]:
    """A TCP port in front of the server, which loses connections on command."""
    with TcpProxy(Path(socket_of(postgres_server.dsn))) as proxy:
        yield proxy


@pytest.fixture
def proxied_dsn(postgres_dsn: str, tcp_proxy: TcpProxy) -> str:
    """DSN of the test's own database through the proxy."""
    return make_conninfo(postgres_dsn, host="127.0.0.1", port=tcp_proxy.port, sslmode="disable")


@contextmanager
def cloned(server: str, template: str) -> Generator[str]:
    """Yield the DSN of a database cloned from a template, and drop it at the end."""
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {name} template {template}").format(**names))
        yield make_conninfo(server, dbname=name)
        admin.execute(sql.SQL("drop database {name} with (force)").format(**names))


def socket_of(dsn: str) -> str:
    """Return the path of the socket that a DSN of an embedded server names."""
    given = conninfo_to_dict(dsn)
    return f"{given['host']}/.s.PGSQL.{given['port']}"


def remove_tree(folder: Path) -> None:
    """Remove a folder of a server's, whose files may go while one looks."""
    shutil.rmtree(folder, ignore_errors=True)
