"""Rows a second into the database, without what embedding takes."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from benchmarks.peers.stores import LangChainStore, OldLangChainStore, ours
from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.synthetic import Rows, blocks
from rttc_graph.samples.ingest import DEFAULT_BATCH_SIZE

SHARE = 0.1
"""Of our rows that a peer stores in a measurement: it is slower, and its rate is what counts."""


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield our ingest against both stores of langchain-postgres, all without a vector index."""
    rows, fewer = _parts(setup.rows, 0), _parts(max(1, int(SHARE * setup.rows)), 500)
    with scratch(setup) as dsn, ours(dsn) as mine:
        new, old = LangChainStore(dsn), OldLangChainStore(dsn)
        try:
            yield [
                Case(
                    name=f"ingest, {batch_size:,} rows a transaction",
                    ours=lambda size=batch_size: mine.add(next(rows), batch_size=size),
                    peer=lambda store=store: store.add(next(fewer)),
                    peer_name=store.name,
                    unit="rows/s",
                    more_is_better=True,
                    least_ratio=least,
                )
                for batch_size, store, least in (
                    (DEFAULT_BATCH_SIZE, new, 40.0),
                    (setup.rows, new, None),
                    (DEFAULT_BATCH_SIZE, old, None),
                )
            ]
        finally:
            new.close()
            old.close()


def _parts(count: int, first: int) -> Iterator[Rows]:
    """Yield rows that nobody has stored, again and again; `first` counts blocks of 10,000."""
    for number in itertools.count():
        start = 10_000 * first + count * number
        yield next(iter(blocks(start, start + count)))
