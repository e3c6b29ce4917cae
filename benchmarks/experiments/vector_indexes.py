"""Vector indexes of one large table side by side: half precision, and bits with re-ranking.

Both find nearest vectors by HNSW. `halfvec` compares the vectors as they are stored. `bits`
compares their signs (binary quantisation) and puts some candidates in order by the stored vectors.
Measured are the build, the bytes, recall@k against exact search and the time of a query, one after
the other.

    python -m benchmarks.experiments.vector_indexes --rows 1000000 --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import scratch
from benchmarks.tools.synthetic import DIMENSION, blocks, nearest, queries, recall

MB = 2**20

_HALF = """create index halfvec on vectors using hnsw (embedding halfvec_cosine_ops)
with (m = 16, ef_construction = 64)"""
_BITS = """create index bits on vectors
using hnsw ((binary_quantize(embedding)::bit(384)) bit_hamming_ops)
with (m = 16, ef_construction = 64)"""

_BY_HALF = "select id from vectors order by embedding <=> %(asked)s limit %(k)s"
_BY_BITS = """select id from (
    select id, embedding from vectors
    order by binary_quantize(embedding)::bit(384) <~> binary_quantize(%(asked)s)
    limit %(candidates)s
) as near
order by embedding <=> %(asked)s
limit %(k)s"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of index: how it is built and searched."""

    built_by: str
    searched_by: str
    widths: tuple[int, ...]
    """Values of `hnsw.ef_search`, and as many candidates where some are put in order."""
    effort: str
    """What a width is called."""


_INDEXES = {
    "halfvec": Kind(
        built_by=_HALF, searched_by=_BY_HALF, widths=(40, 100, 200, 400), effort="ef_search {}"
    ),
    "bits": Kind(
        built_by=_BITS,
        searched_by=_BY_BITS,
        widths=(40, 100, 200, 400, 800),
        effort="{} candidates",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One way to search, measured."""

    index: str
    effort: str
    """Setting that trades time for recall."""
    recall: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One index, measured."""

    index: str
    build_seconds: float
    index_mb: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write what was asked for."""
    options = _options(arguments)
    setup = Setup(
        home=options.home, model=Path(), embedder=Path(), database_url=options.database_url
    )
    rows: list[dict[str, Any]] = []
    for row in _measured(setup, options):
        rows.append(row)
        print(", ".join(f"{name} {_told(value)}" for name, value in row.items()))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _measured(setup: Setup, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with scratch(setup) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        register_vector(connection)
        connection.execute(f"set maintenance_work_mem = '{options.memory_mb}MB'")
        connection.execute(f"set max_parallel_maintenance_workers = {options.workers}")
        yield _filled(connection, options.rows)
        asked = queries(options.queries)
        tell("exact search")
        right = nearest(blocks(0, options.rows), asked, options.k)
        for index in options.indexes:
            tell(f"building {index}")
            yield from _of_index(connection, index, options.k, asked, right)


def _of_index(
    connection: psycopg.Connection[Any],
    index: str,
    k: int,
    asked: np.ndarray[Any, Any],
    right: Sequence[set[int]],
) -> Iterator[dict[str, Any]]:
    kind = _INDEXES[index]
    yield asdict(_built(connection, index, kind.built_by))
    for width in kind.widths:
        connection.execute(f"set hnsw.ef_search = {width}")
        search = _search(connection, kind.searched_by, k=k, candidates=width)
        yield asdict(_asked(index, kind.effort.format(width), search, asked, right))
    connection.execute(f"drop index {index}")


def _filled(connection: psycopg.Connection[Any], rows: int) -> dict[str, Any]:
    connection.execute(f"create table vectors (id int primary key, embedding halfvec({DIMENSION}))")
    stored, seconds = 0, 0.0
    for block in blocks(0, rows):
        values = [HalfVector(vector) for vector in block.lists]
        began = time.perf_counter()
        with connection.cursor().copy("copy vectors from stdin with (format binary)") as copy:
            copy.set_types(["int4", "halfvec"])
            for number, value in enumerate(values, start=stored):
                copy.write_row((number, value))
        seconds += time.perf_counter() - began
        stored += len(values)
        tell(f"{stored:,} of {rows:,} rows")
    connection.execute("vacuum analyze vectors")
    return {
        "rows": rows,
        "rows_a_second": rows / seconds,
        "table_mb": _bytes(connection, "vectors") / MB,
    }


def _built(connection: psycopg.Connection[Any], name: str, statement: str) -> Built:
    began = time.perf_counter()
    connection.execute(statement)
    seconds = time.perf_counter() - began
    connection.execute("vacuum analyze vectors")
    size = _bytes(connection, name) / MB
    return Built(index=name, build_seconds=seconds, index_mb=size)


def _bytes(connection: psycopg.Connection[Any], relation: str) -> int:
    row = connection.execute("select pg_relation_size(%s::regclass)", [relation]).fetchone()
    return int((row or (0,))[0])


def _search(
    connection: psycopg.Connection[Any], statement: str, **more: Any
) -> Callable[[HalfVector], list[int]]:
    def search(asked: HalfVector) -> list[int]:
        found = connection.execute(statement, {"asked": asked, **more})
        return [int(row[0]) for row in found]

    return search


def _asked(
    index: str,
    effort: str,
    search: Callable[[HalfVector], list[int]],
    asked: np.ndarray[Any, Any],
    right: Sequence[set[int]],
) -> Found:
    vectors = [HalfVector(vector) for vector in asked.tolist()]
    for vector in vectors[:20]:
        search(vector)
    found: list[list[int]] = []
    taken: list[float] = []
    for vector in vectors:
        began = time.perf_counter()
        found.append(search(vector))
        taken.append(1000 * (time.perf_counter() - began))
    return Found(
        index=index,
        effort=effort,
        recall=recall(found, right),
        p50_ms=statistics.median(taken),
        p95_ms=sorted(taken)[int(0.95 * len(taken))],
    )


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    home = Path(os.environ.get("RTTC_HOME", "~/.rttc")).expanduser()
    parser.add_argument("--rows", type=int, default=20_000, help="vectors in the table")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument(
        "--indexes", nargs="+", choices=_INDEXES, default=list(_INDEXES), help="what to build"
    )
    parser.add_argument("--workers", type=int, default=2, help="parallel workers of a build")
    parser.add_argument("--memory-mb", type=int, default=2048, help="memory of a build")
    parser.add_argument("--home", type=Path, default=home, help="folder of the embedded server")
    parser.add_argument("--database-url", help="another server")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
