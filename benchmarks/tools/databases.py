"""A database of a benchmark's own, on the server that an installation uses, dropped at the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.tools.benchmark_options import Setup
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.migrate import migrate

_NUMBERS = itertools.count(1)


class Prepared:
    """An embedder that was given its vectors, so that embedding takes no time."""

    name = "prepared"

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.vectors: dict[str, list[float]] = {}

    async def fingerprint(self) -> str:
        """Return a constant."""
        return "prepared"

    async def dimension(self) -> int:
        """Return the length of the vectors."""
        return self._dimension

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return what was given for the texts."""
        return [self.vectors[text] for text in texts]


@contextmanager
def scratch(setup: Setup) -> Generator[str]:
    """Yield the DSN of an empty, migrated database."""
    with _server(setup) as server, psycopg.connect(server, autocommit=True) as admin:
        plain = f"rttc_bench_{os.getpid()}_{next(_NUMBERS)}"
        name = sql.Identifier(plain)
        admin.execute(sql.SQL("create database {}").format(name))
        try:
            dsn = make_conninfo(server, dbname=plain)
            migrate(dsn)
            yield dsn
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(name))


@contextmanager
def _server(setup: Setup) -> Generator[str]:
    if setup.database_url is not None:
        yield setup.database_url
        return
    server = EmbeddedPostgres(setup.home / "postgres")
    try:
        yield server.start().dsn
    finally:
        server.release()
