"""Search, recall, ingest and memory with more and more samples, each size in a database anew."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from benchmarks.cases.search import more_queries
from benchmarks.peers.stores import BareSql, Ours, ours
from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.synthetic import DIMENSION, blocks, nearest, queries, recall
from rttc_graph.integrations.postgres.samples.sample_search import INDEX_ROWS

QUERIES = 100
"""For the recall."""

PART = 500
"""Rows of a measurement of an ingest into an index."""

MB = 2**20


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[Case | dict[str, Any]]]:
    """Yield the cases of each size, smallest first."""
    yield _of_all_sizes(setup)


def _of_all_sizes(setup: Setup) -> Iterator[Case | dict[str, Any]]:
    first: list[float] | None = None
    for size in setup.sizes:
        with scratch(setup) as dsn, ours(dsn) as mine:
            resident = psutil.Process().memory_info().rss
            rates = list(_filled(mine, size))
            first = first or rates
            yield row(f"ingest, {size:,}", rates, first, _SMALLEST, "rows/s", more=True)
            tell("  building the index")
            mine.build_index()
            yield from _searches(setup, dsn, mine, size)
            grown = psutil.Process().memory_info().rss
            yield row(f"client, {size:,}", [grown / MB], [resident / MB], _BEFORE, "MB")
            raw = size * 2 * DIMENSION / MB
            stored = [database_bytes(dsn) / MB]
            yield row(f"database, {size:,}", stored, [raw], "the vectors alone, halfvec", "MB")
            if size >= INDEX_ROWS:
                yield _indexed_ingest(mine, size, first)


_SMALLEST = "the smallest size"
_BEFORE = "the same process before, with an empty knowledge base"


def _filled(mine: Ours, size: int) -> Iterator[float]:
    """Store the rows and yield the rate of each part."""
    stored = 0
    for rows in blocks(0, size):
        yield mine.add(rows)
        stored += len(rows.samples)
        tell(f"  {stored:,} of {size:,} samples")


def _searches(setup: Setup, dsn: str, mine: Ours, size: int) -> Iterator[Case | dict[str, Any]]:
    asked = queries(QUERIES)
    right = nearest(blocks(0, size), asked, setup.k)
    share = recall(mine.search(asked.tolist(), k=setup.k).found, right)
    yield row(f"recall@{setup.k}, {size:,}", [share], [1.0], "exact search", "share", more=True)
    bare, asking = BareSql(dsn, exact=size < INDEX_ROWS), more_queries(setup.queries)
    yield Case(
        name=f"search p50, {size:,}",
        ours=lambda: mine.search(next(asking), k=setup.k).p50,
        peer=lambda: bare.search(next(asking), k=setup.k).p50,
        peer_name=bare.name,
        unit="ms",
    )
    bare.close()


def _indexed_ingest(mine: Ours, size: int, first: Sequence[float]) -> dict[str, Any]:
    """Store a little more, which the index has to take in row by row."""
    found = [
        mine.add(rows)
        for number in range(3)
        for rows in blocks(size + number * PART, size + (number + 1) * PART)
    ]
    peer_name = "the smallest size, without an index"
    usual = [statistics.median(first)] * len(found)
    return row(f"ingest into the index, {size:,}", found, usual, peer_name, "rows/s", more=True)


def row(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    unit: str,
    *,
    more: bool = False,
) -> dict[str, Any]:
    """Return the row of something that is measured as it happens, once."""
    usual = peer[-1]
    pairs = [(mine, peer[n] if n < len(peer) else usual) for n, mine in enumerate(ours)]
    case = Case(
        name=name, ours=float, peer=float, peer_name=peer_name, unit=unit, more_is_better=more
    )
    return row_of(case, pairs)


def database_bytes(dsn: str) -> int:
    """Return the size of the samples with their indexes."""
    query = """select sum(pg_total_relation_size(inhrelid)) from pg_inherits
    where inhparent = 'rttc_sample'::regclass"""
    with psycopg.connect(dsn) as connection:
        return int((connection.execute(query).fetchone() or (0,))[0])
