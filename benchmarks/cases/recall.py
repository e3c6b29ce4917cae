"""The query-state cache: a look-up against the SQL it needs, and a hit against the whole work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from benchmarks.peers.gptcache_store import GptCacheStore
from benchmarks.peers.libraries import named
from benchmarks.peers.stores import TENANT, Timed
from benchmarks.tools import reasoning_puzzles
from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.databases import Prepared, scratch
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.synthetic import DIMENSION, DOMAIN, blocks, queries
from rttc_graph.installation.ask_question import AskResult
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.statements import statement
from rttc_graph.protocols import QueryState, RecallRequest
from rttc_graph.samples.ingest import ingest
from rttc_graph.state import Sample

LOOK_UP: dict[str, Any] = {
    "domain": DOMAIN,
    "tenant": TENANT,
    "k": 8,
    "choice": "nearest",
    "samples_similarity": 0.97,
    "adapter_similarity": 0.9,
    "base_fingerprint": "base",
    "training_fingerprint": "training",
}
"""What a run with default settings asks for."""

PER_TASK = 50
"""Samples of each demo task in the knowledge base that cold queries are answered from."""


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[Case | dict[str, Any]]]:
    """Yield a look-up against bare SQL, a hit against a cold run, a look-up against GPTCache."""
    with scratch(setup) as dsn, contextlib.ExitStack() as stack:
        database = Database(dsn)
        stack.callback(database.close)
        cache = PostgresQueryStateCache(database, max_states=2 * setup.states)
        tell(f"  remembering {setup.states} states")
        asyncio.run(_fill(database, cache, setup.states))
        look_ups = _LookUps(setup, dsn, cache, stack)
        yield itertools.chain(look_ups.against_sql(), _hits(setup, stack), look_ups.against_gpt())


@dataclass(frozen=True, slots=True)
class _LookUps:
    """Look-ups in a cache with states, half of which are hits."""

    setup: Setup
    dsn: str
    cache: PostgresQueryStateCache
    stack: contextlib.ExitStack

    def against_sql(self) -> Iterator[Case]:
        asking = _near_and_far(self.setup.queries)
        bare = _bare(self.stack.enter_context(psycopg.connect(self.dsn, autocommit=True)))
        peer_name = named("psycopg", "the same statement, prepared, one connection")
        yield self._case(asking, lambda: bare(next(asking)).p50, peer_name, 1 / 1.3)

    def against_gpt(self) -> Iterator[Case]:
        asking = _near_and_far(self.setup.queries)
        gpt = GptCacheStore(self.dsn, DIMENSION)
        self.stack.callback(gpt.close)
        for rows in blocks(0, self.setup.states):
            gpt.add(rows)
        yield self._case(asking, lambda: gpt.search(next(asking)).p50, gpt.name, None)

    def _case(
        self,
        asking: Iterator[list[list[float]]],
        peer: Callable[[], float],
        peer_name: str,
        least_ratio: float | None,
    ) -> Case:
        return Case(
            name=f"look-up p50, {self.setup.states:,} states",
            ours=lambda: asyncio.run(_recalled(self.cache, next(asking))).p50,
            peer=peer,
            peer_name=peer_name,
            unit="ms",
            least_ratio=least_ratio,
        )


async def _fill(database: Database, cache: PostgresQueryStateCache, states: int) -> None:
    """Remember queries in a domain of one sample; every state holds eight samples."""
    embedder = Prepared(DIMENSION)
    knowledge_base = PostgresKnowledgeBase(database, embedder)
    rows = next(iter(blocks(0, 1)))
    await knowledge_base.ingest(rows.samples, rows.lists, tenant=TENANT)
    for rows in blocks(0, states):
        samples = [_as_retrieved(number) for number in range(8)]
        for sample, vector in zip(rows.samples, rows.lists, strict=True):
            state = QueryState(
                query=sample.question,
                vector=vector,
                domain=DOMAIN,
                tenant=TENANT,
                k=8,
                samples=samples,
                revision=1,
                adapter=None,
                training_fingerprint="training",
                reward=0.9,
            )
            await cache.remember(state)


def _as_retrieved(number: int) -> Sample:
    return {
        "id": f"{number:064x}",
        "question": f"How do I ask about a refund of a card payment, please? #{number}",
        "answer": "card payment refund",
        "domain": DOMAIN,
        "similarity": 0.9,
    }


async def _recalled(cache: PostgresQueryStateCache, vectors: Sequence[list[float]]) -> Timed:
    timed = Timed()
    for vector in vectors:
        began = time.perf_counter()
        found = await cache.recall(RecallRequest(vector=vector, **LOOK_UP))
        timed.add(began, time.perf_counter(), found)
    return timed


def _bare(connection: psycopg.Connection[Any]) -> Callable[[Sequence[list[float]]], Timed]:
    register_vector(connection)
    query = statement("recall")

    def search(vectors: Sequence[list[float]]) -> Timed:
        timed = Timed()
        for vector in vectors:
            began = time.perf_counter()
            asked = {**LOOK_UP, "vector": HalfVector(vector), "dimension": len(vector)}
            row = connection.cursor(binary=True).execute(query, asked, prepare=True).fetchone()
            timed.add(began, time.perf_counter(), row)
        return timed

    return search


def _near_and_far(count: int) -> Iterator[list[list[float]]]:
    """Yield other queries each time; half are near a state, so hits and misses are timed."""
    for seed in itertools.count(1):
        known = next(iter(blocks(count * seed % 500, count * seed % 500 + count // 2 + 1))).lists
        yield [*known, *queries(count // 2, seed=seed).tolist()]


def _hits(setup: Setup, stack: contextlib.ExitStack) -> Iterator[dict[str, Any]]:
    """Ask each question twice: the second run finds the adapter of the first."""
    local = stack.enter_context(open_local(_config(setup, stack.enter_context(scratch(setup)))))
    pool = reasoning_puzzles.samples(PER_TASK)
    asked = reasoning_puzzles.questions(1, apart_from=pool)
    questions = asked[1 : 1 + setup.pairs]

    async def work() -> list[tuple[AskResult, AskResult]]:
        await local.warm_up()
        tell(f"  embedding {len(pool)} samples")
        await ingest(pool, local.knowledge.knowledge_base, local.knowledge.embedder)
        await local.ask(asked[0].question, domain=asked[0].domain)  # warm-up
        return [await _twice(local, each.question, each.domain) for each in questions]

    runs = asyncio.run(work())
    same = sum(cold["answer"] == warm["answer"] for cold, warm in runs)
    case = Case(
        name=f"repeated query, same answer {same} of {len(runs)}",
        ours=float,
        peer=float,
        peer_name="the same query cold: retrieve, train, answer",
        unit="s",
        least_ratio=8,
    )
    row = row_of(case, [(warm["seconds"], cold["seconds"]) for cold, warm in runs])
    yield {**row, "met": row["met"] and same == len(runs)}


async def _twice(local: LocalRttc, question: str, domain: str) -> tuple[AskResult, AskResult]:
    cold, warm = [await local.ask(question, domain=domain) for _ in range(2)]
    if warm["cache"]["adapter"] != "hit":
        raise AssertionError(f"the second run recalled no adapter: {warm['cache']}")
    tell(f"  cold {cold['seconds']:.2f} s, repeated {warm['seconds']:.2f} s")
    return cold, warm


def _config(setup: Setup, dsn: str) -> InstallationConfig:
    return setup.config(
        dsn,
        policy="ttt",  # every query trains, however sure the plain model is
        max_new_tokens=setup.tokens,
        budget_seconds=600.0,
    )
