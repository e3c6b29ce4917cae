"""The query-state cache on disk while adapters come and go: live bytes, bytes on disk, recalls.

A cache of a fixed size is filled, then turned over many times: each round stores a new adapter and
its query's state, which drops the oldest. What a dropped adapter took is free for the next one only
after a vacuum. Measured with PostgreSQL's own settings, with eager ones for the two tables, and
while another transaction reads all the time, as a dump does, which keeps every vacuum from freeing
anything.

    python -m benchmarks.experiments.cache_churn --turnovers 20
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.tools.benchmark_options import tell
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.migrate import migrate
from rttc_graph.protocols import QueryState, RecallRequest, TrainedAdapter

MB = 2**20
DIMENSION = 384
SAMPLES: list[Any] = [{"question": "q" * 200, "answer": "a" * 200}] * 8
BASE = "base"

_EAGER = """
alter table rttc_adapter set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 1000);
alter table rttc_query_state set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 50,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 1000);
"""
_WAYS = ("default", "eager", "no vacuum", "dump of the first half")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Sizes of one run."""

    adapters: int
    kib: int
    turnovers: int
    naptime: int


def main() -> None:
    """Print a row for each way at each turnover."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.cache_churn", description=__doc__
    )
    parser.add_argument("--adapters", type=int, default=128, help="that the cache holds")
    parser.add_argument("--kib", type=int, default=1024, help="of an adapter")
    parser.add_argument("--turnovers", type=int, default=20, help="times that all are replaced")
    parser.add_argument("--naptime", type=int, default=1, help="seconds between autovacuums")
    options = Options(**vars(parser.parse_args()))
    print(
        f"{'way':<24} {'turnover':>8} {'live MB':>8} {'disk MB':>8} {'ratio':>6} {'recall ms':>9}"
    )
    for way in _WAYS:
        with _server(options) as dsn:
            _turn_over(dsn, way, options)


@contextmanager
def _server(options: Options) -> Generator[str]:
    folder = Path(tempfile.mkdtemp(prefix="rttc-churn-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder, conf={"autovacuum_naptime": f"{options.naptime}s"})
    try:
        dsn = server.start().dsn
        migrate(dsn)
        yield dsn
    finally:
        server.stop(force=True)
        shutil.rmtree(folder, ignore_errors=True)


def _turn_over(dsn: str, way: str, options: Options) -> None:
    with ExitStack() as stack:
        admin = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        if way == "eager":
            admin.execute(_EAGER)
        if way == "no vacuum":
            for table in ("rttc_adapter", "rttc_query_state"):
                admin.execute(
                    f"alter table {table} set (autovacuum_enabled = off, "
                    "toast.autovacuum_enabled = off)"
                )
        database = Database(dsn)
        stack.callback(database.close)
        cache = PostgresQueryStateCache(
            database, max_bytes=options.adapters * (options.kib * 1024 + 5000)
        )
        dump = stack.enter_context(psycopg.connect(dsn)) if way.startswith("dump") else None
        if dump is not None:
            dump.execute("set transaction isolation level repeatable read")
            dump.execute("select count(*) from rttc_adapter")
        for turnover in range(1 + options.turnovers):
            recalls = asyncio.run(_replace_all(cache, turnover, options))
            stats = asyncio.run(cache.stats())
            live, disk = stats.bytes / MB, stats.disk_bytes / MB
            told = f"{live:>8.0f} {disk:>8.0f} {disk / live:>6.2f} {recalls:>9.1f}"
            print(f"{way:<24} {turnover:>8} {told}", flush=True)
            if dump is not None and turnover == options.turnovers // 2:
                dump.rollback()
        tell(f"{way}: {_vacuums(admin)}")


async def _replace_all(cache: PostgresQueryStateCache, turnover: int, options: Options) -> float:
    """Store as many new adapters as the cache holds; return the median ms of a recall."""
    dice = np.random.default_rng(turnover)
    taken: list[float] = []
    for number in range(options.adapters):
        key = f"{turnover:04}x{number:06}"
        weights = dice.bytes(options.kib * 1024)
        await cache.keep_adapter(_adapter(key, weights))
        vector = dice.normal(size=DIMENSION)
        vector = (vector / np.linalg.norm(vector)).tolist()
        await cache.remember(_state(key, vector))
        began = time.perf_counter()
        found = await cache.recall(_request(vector))
        taken.append(1000 * (time.perf_counter() - began))
        assert found.adapter == key, (found.adapter, key)
    return statistics.median(taken)


def _adapter(key: str, weights: bytes) -> TrainedAdapter:
    return TrainedAdapter(
        key=key,
        weights=weights,
        base_fingerprint=BASE,
        trained_tokens=1,
        steps=1,
        losses=(1.0,),
        seconds=1.0,
        provenance={},
    )


def _state(key: str, vector: list[float]) -> QueryState:
    return QueryState(
        tenant="t",
        domain="d",
        query=f"question {key}",
        vector=vector,
        k=8,
        samples=SAMPLES,
        revision=1,
        adapter=key,
        training_fingerprint="f",
        reward=0.9,
    )


def _request(vector: list[float]) -> RecallRequest:
    return RecallRequest(
        tenant="t",
        domain="d",
        vector=vector,
        k=8,
        samples_similarity=0.9,
        adapter_similarity=0.9,
        base_fingerprint=BASE,
        training_fingerprint="f",
    )


def _vacuums(admin: psycopg.Connection[Any]) -> dict[str, int]:
    rows = admin.execute(
        "select relname, autovacuum_count from pg_stat_all_tables where relid in ("
        "select oid from pg_class where relname in ('rttc_adapter', 'rttc_query_state') union "
        "select reltoastrelid from pg_class where relname in ('rttc_adapter', 'rttc_query_state'))"
    )
    return {str(name): int(count) for name, count in rows}


if __name__ == "__main__":
    main()
