"""The benchmarks of the database, run at sizes that take seconds; peers where they are there."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from benchmarks.__main__ import measured
from benchmarks.cases import recall
from benchmarks.peers import stores
from benchmarks.peers.gptcache_store import GptCacheStore
from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.databases import scratch
from benchmarks.tools.paired_runs import Case, measure
from benchmarks.tools.synthetic import DIMENSION, blocks, queries
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres

ROW = {"case", "ours", "peer", "peer_name", "unit", "ratio", "spread", "target", "met"}

needs_langchain_postgres = pytest.mark.skipif(
    find_spec("langchain_postgres") is None, reason="langchain-postgres is not installed"
)
needs_gptcache = pytest.mark.skipif(
    find_spec("gptcache") is None, reason="gptcache is not installed"
)


@pytest.fixture
def small(postgres_server: EmbeddedPostgres, tmp_path: Path) -> Setup:
    """Sizes at which everything takes a second or two."""
    return Setup(
        home=tmp_path,
        model=tmp_path,
        embedder=tmp_path,
        database_url=postgres_server.dsn,
        samples=40,
        sizes=(20, 40),
        rows=20,
        queries=3,
        k=2,
    )


def test_a_scratch_database_is_gone_afterwards(small: Setup) -> None:
    with scratch(small) as dsn, psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from rttc_sample, current_database()").fetchone()
        assert row == (0,)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn)


def test_growth_measures_every_size(small: Setup) -> None:
    rows = list(measured("growth", small))
    assert [row["case"] for row in rows if row["case"].startswith("recall")] == [
        "recall@2, 20",
        "recall@2, 40",
    ]
    assert [row["ours"] for row in rows if row["unit"] == "share"] == [1.0, 1.0]
    assert {row["unit"] for row in rows} == {"rows/s", "share", "ms", "MB"}
    assert all(set(row) == ROW and row["ours"] > 0 and row["peer"] > 0 for row in rows)


def test_bare_sql_finds_what_we_find(small: Setup) -> None:
    with scratch(small) as dsn, stores.ours(dsn) as mine:
        for rows in blocks(0, 40):
            mine.add(rows)
        asked = queries(5).tolist()
        bare = stores.BareSql(dsn, exact=True)
        found = [bare.search(asked, k=3).found, mine.search(asked, k=3).found]
        bare.close()
    assert found[0] == found[1]


@needs_langchain_postgres
@pytest.mark.parametrize("name", ["ingest", "search"])
def test_both_stores_are_compared(small: Setup, name: str) -> None:
    rows = list(measured(name, small))
    assert all(set(row) == ROW for row in rows)
    shares = [(row["ours"], row["peer"]) for row in rows if row["unit"] == "share"]
    assert shares == ([(1.0, 1.0)] if name == "search" else [])


def test_look_ups_are_compared_with_their_sql(small: Setup) -> None:
    with recall.cases(replace(small, states=5)) as cases:
        case = next(iter(cases))
        assert isinstance(case, Case)
        row = measure(case, pairs=5)
    assert set(row) == ROW
    assert row["case"] == "look-up p50, 5 states"


@needs_gptcache
def test_gptcache_finds_the_nearest(small: Setup) -> None:
    with scratch(small) as dsn:
        store = GptCacheStore(dsn, DIMENSION)
        (rows,) = blocks(0, 20)
        store.add(rows)
        found = store.search(rows.lists[3:6]).found
        store.close()
    assert found == [sample.question for sample in rows.samples[3:6]]
