"""The nearest samples to a query: ours, langchain-postgres at the same recall, and bare SQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.stores import BareSql, LangChainStore, Ours, Timed, langchain_search, ours
from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case
from benchmarks.tools.synthetic import blocks, nearest, queries, recall

WIDTHS = (40, 60, 80, 100, 150, 200, 300, 400)
"""`hnsw.ef_search` of the peer; it gets the least that finds as much as ours does."""

TUNING_QUERIES = 200

Search = Callable[[Sequence[list[float]]], Timed]


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[Case]]:
    """Yield time and recall against PGVectorStore, and time against SQL."""
    with scratch(setup) as dsn, ours(dsn) as mine:
        store = LangChainStore(dsn)
        try:
            fill(mine, store, 0, setup.samples)
            bare = BareSql(dsn)
            yield compared(setup, mine, store, bare, setup.samples)
            bare.close()
        finally:
            store.close()


def fill(mine: Ours, store: LangChainStore | None, start: int, stop: int) -> None:
    """Store the rows from `start` to `stop` in both, and see that both have an index."""
    for rows in blocks(start, stop):
        mine.add(rows)
        if store is not None:
            store.copy(rows)
        start += len(rows.samples)
        tell(f"  {start} samples stored")
    tell("  building the index")
    mine.build_index()
    if store is not None:
        store.build_index()


def compared(
    setup: Setup, mine: Ours, store: LangChainStore, bare: BareSql, samples: int
) -> Iterator[Case]:
    """Yield the cases for a knowledge base of some size."""
    tell("  comparing all vectors, for the recall")
    asked = queries(TUNING_QUERIES)
    right = nearest(blocks(0, samples), asked, setup.k)

    def found_by(search: Search) -> float:
        return recall(search(asked.tolist()).found, right)

    def by_us(vectors: Sequence[list[float]]) -> Timed:
        return mine.search(vectors, k=setup.k)

    width, by_them = tuned(store, setup.k, found_by, found_by(by_us))
    asking = more_queries(setup.queries)
    yield Case(
        name=f"recall@{setup.k} of {samples:,}",
        ours=lambda: found_by(by_us),
        peer=lambda: found_by(by_them),
        peer_name=f"{store.name}, ef_search={width}",
        unit="share",
        more_is_better=True,
        pairs=1,  # the same each time
        warm_up=False,
    )
    yield Case(
        name=f"search p50, {samples:,} samples",
        ours=lambda: by_us(next(asking)).p50,
        peer=lambda: by_them(next(asking)).p50,
        peer_name=f"{store.name}, ef_search={width}",
        unit="ms",
        least_ratio=3,
    )
    yield Case(
        name=f"search p50, {samples:,} samples",
        ours=lambda: by_us(next(asking)).p50,
        peer=lambda: bare.search(next(asking), k=setup.k).p50,
        peer_name=bare.name,
        unit="ms",
    )


def tuned(
    store: LangChainStore, k: int, found_by: Callable[[Search], float], enough: float
) -> tuple[int, Search]:
    """Return the narrowest search of the peer that finds `enough`, so its fastest."""
    for width in WIDTHS:
        search = _searching(store.tuned(ef_search=width), k)
        if found_by(search) >= enough - 0.002 or width == WIDTHS[-1]:
            return width, search
    raise AssertionError("the last width is always taken")


def _searching(store: Any, k: int) -> Search:
    return lambda vectors: langchain_search(store, vectors, k=k)


def more_queries(count: int) -> Iterator[list[list[float]]]:
    """Yield other queries each time, so that nobody is served from a cache of the last ones."""
    for seed in itertools.count(1):
        yield queries(count, seed=seed).tolist()
