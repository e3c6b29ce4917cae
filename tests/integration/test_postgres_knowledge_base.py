"""The knowledge base in Postgres: what the contract of all knowledge bases does not say."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, get_args

import psycopg
import pytest
from knowledge_children import ingest_batches
from pgvector import HalfVector
from postgres_children import Child
from postgres_fixtures import NumberEmbedder
from psycopg import sql
from psycopg.rows import DictRow
from psycopg_pool import ConnectionPool

from rttc_graph.errors import ConfigurationError, EmbeddingError, KnowledgeBaseError
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.samples import sample_index
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.samples.reembedding import ReembedProgress
from rttc_graph.integrations.postgres.samples.sample_index import IndexProgress
from rttc_graph.integrations.postgres.samples.sample_rows import described, named, sample_ids
from rttc_graph.integrations.postgres.samples.sample_search import SampleQuery, SearchScope, search
from rttc_graph.integrations.postgres.statements import statement
from rttc_graph.protocols import Embedder, Ingested, NewSample, QueryState, SearchResult
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.passages import embedded_text
from rttc_graph.testing import at_angle, new_sample

INDEX_ROWS = 300
"""From how many rows on partitions have an index here; the default would take minutes."""

LARGE = 320
CHOICES: tuple[SamplesChoice, ...] = get_args(SamplesChoice)


@pytest.fixture
def knowledge_base(database: Database, embedder: Embedder) -> PostgresKnowledgeBase:
    return PostgresKnowledgeBase(database, embedder, auto_index=False, index_rows=INDEX_ROWS)


async def fill(
    knowledge_base: PostgresKnowledgeBase,
    count: int,
    *,
    tenant: str = "tenant",
    around: float = 0.0,
    first: int = 0,
) -> None:
    """Store samples within 90 degrees of an angle, all in one direction."""
    samples = [new_sample(number) for number in range(first, first + count)]
    vectors = [at_angle(around + 90 * number / count) for number in range(count)]
    assert (await knowledge_base.ingest(samples, vectors, tenant=tenant)).new == count


def one_domain(samples: int, *, partition: int | None = None, index_rows: int) -> SearchScope:
    """Return the scope of a search of the first domain, whose partition may hold others' rows."""
    return SearchScope(
        domain_ids=[1],
        revision=1,
        samples=samples,
        partition_samples=samples if partition is None else partition,
        wants_index=False,
        index_rows=index_rows,
    )


def counted(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]


class TestEmbedder:
    async def test_another_one_is_refused_with_the_way_out(self, database: Database) -> None:
        old = PostgresKnowledgeBase(database, NumberEmbedder(3, "old"))
        new = PostgresKnowledgeBase(database, NumberEmbedder(3, "new"))
        await old.ingest([new_sample(1)], [at_angle(0)], tenant="t")
        message = r"'numbers-3' \(dimension 3, fingerprint 'old'\).*'new'.*rttc kb reembed"
        with pytest.raises(KnowledgeBaseError, match=message) as caught:
            await new.search(at_angle(0), k=1, domain=None, tenant="t")
        assert not caught.value.retryable
        with pytest.raises(KnowledgeBaseError, match=message):
            await new.ingest([new_sample(2)], [at_angle(0)], tenant="t")

    async def test_an_empty_knowledge_base_is_anybodys(self, database: Database) -> None:
        for fingerprint in ("old", "new"):
            knowledge_base = PostgresKnowledgeBase(database, NumberEmbedder(3, fingerprint))
            found = await knowledge_base.search(at_angle(0), k=1, domain=None, tenant="t")
            assert found.samples == []

    async def test_only_one_of_two_can_be_the_first(self, database: Database) -> None:
        both = [PostgresKnowledgeBase(database, NumberEmbedder(3, name)) for name in "ab"]
        done = await asyncio.gather(
            *(k.ingest([new_sample(1)], [at_angle(0)], tenant="t") for k in both),
            return_exceptions=True,
        )
        assert [type(one) for one in done if one != Ingested(new=1)] == [KnowledgeBaseError]

    async def test_vectors_too_long_to_store_are_refused(self, database: Database) -> None:
        knowledge_base = PostgresKnowledgeBase(database, NumberEmbedder(16_001))
        with pytest.raises(ConfigurationError, match=r"16001.*16000"):
            await knowledge_base.search([1.0] * 16_001, k=1, domain=None, tenant="t")

    async def test_vectors_too_long_for_an_index_are_searched_exactly(
        self, database: Database
    ) -> None:
        embedder = NumberEmbedder(4100)
        knowledge_base = PostgresKnowledgeBase(database, embedder)
        vectors = await embedder.embed(["1", "2"])
        samples = [new_sample(1), new_sample(2)]
        await knowledge_base.ingest(samples, vectors, tenant="t")
        found = await knowledge_base.search(vectors[1], k=1, domain="math", tenant="t")
        assert found.samples[0]["question"] == "question 2"
        assert await knowledge_base.build_indexes() == []


class TestReembedding:
    async def filled(self, database: Database, dsn: str) -> None:
        old = PostgresKnowledgeBase(database, NumberEmbedder(3))
        samples = [new_sample(number, f"domain {number % 2}") for number in range(600)]
        vectors = await NumberEmbedder(3).embed([s.question for s in samples])
        assert (await old.ingest(samples[:400], vectors[:400], tenant="one")).new == 400
        assert (await old.ingest(samples[300:], vectors[300:], tenant="two")).new == 300
        assert counted(dsn, "select count(*) from rttc_sample") == 700

    async def test_all_samples_get_vectors_of_the_new_one(
        self, database: Database, postgres_dsn: str
    ) -> None:
        await self.filled(database, postgres_dsn)
        cache = PostgresQueryStateCache(database)
        await cache.remember(STATE)
        embedder = NumberEmbedder(5, "new")
        knowledge_base = PostgresKnowledgeBase(database, embedder)
        progress: list[ReembedProgress] = []
        assert await knowledge_base.reembed(on_progress=progress.append) == 700
        assert [(p.done, p.total) for p in progress] == [(256, 700), (512, 700), (700, 700)]
        for tenant, number in (("one", 7), ("two", 555)):
            (vector,) = await embedder.embed([str(number)])
            found = await knowledge_base.search(vector, k=1, domain=None, tenant=tenant)
            assert found.samples[0]["question"] == f"question {number}"
            assert found.revision == 4  # two domains, each ingested into once and re-embedded once
        assert (await cache.stats()).states == 0
        assert await knowledge_base.reembed() == 700  # nothing to do, and all have vectors
        assert counted(postgres_dsn, "select count(*) from rttc_reembedding") == 0

    async def test_a_passage_gets_the_vector_of_its_text(self, database: Database) -> None:
        passage = NewSample(
            question="where 1", answer="text 2", domain="math", metadata={"kind": "passage"}
        )
        vectors = await NumberEmbedder(3).embed(["text 2"])
        await PostgresKnowledgeBase(database, NumberEmbedder(3)).ingest(
            [passage], vectors, tenant="one"
        )
        embedder = NumberEmbedder(5, "new")
        await PostgresKnowledgeBase(database, embedder).reembed()
        assert embedder.embedded == [embedded_text("where 1", "text 2", {"kind": "passage"})]

    async def test_a_broken_off_one_leaves_the_old_vectors_and_is_resumed(
        self, database: Database, postgres_dsn: str
    ) -> None:
        await self.filled(database, postgres_dsn)
        broken = FailingEmbedder(5, "new", after=256)
        with pytest.raises(EmbeddingError):
            await PostgresKnowledgeBase(database, broken).reembed()
        old = PostgresKnowledgeBase(database, NumberEmbedder(3))
        assert len((await old.search(at_angle(0), k=9, domain=None, tenant="one")).samples) == 9
        embedder = NumberEmbedder(5, "new")
        assert await PostgresKnowledgeBase(database, embedder).reembed() == 700
        assert len(embedder.embedded) == 700 - 256

    async def test_the_tables_can_be_filled_and_indexed_afterwards(
        self, database: Database, postgres_dsn: str
    ) -> None:
        await self.filled(database, postgres_dsn)
        embedder = NumberEmbedder(5, "new")
        knowledge_base = PostgresKnowledgeBase(database, embedder, index_rows=INDEX_ROWS)
        await knowledge_base.reembed()
        samples = [new_sample(number, "another") for number in range(LARGE)]
        vectors = await embedder.embed([s.question for s in samples])
        await knowledge_base.ingest(samples, vectors, tenant="one")
        assert await knowledge_base.build_indexes() == ["domain 0", "domain 1", "another"]


class FailingEmbedder(NumberEmbedder):
    """Fails after a number of texts."""

    def __init__(self, dimension: int, fingerprint: str, *, after: int) -> None:
        super().__init__(dimension, fingerprint)
        self._after = after

    async def embed(self, texts: Any) -> list[list[float]]:
        if len(self.embedded) >= self._after:
            raise EmbeddingError("the embedder is gone")
        return await super().embed(texts)


STATE = QueryState(
    query="q",
    vector=at_angle(0),
    domain=None,
    tenant="one",
    k=1,
    samples=[],
    revision=1,
    adapter=None,
    training_fingerprint="f",
    reward=None,
)


class TestSearch:
    async def test_an_index_is_built_once_for_a_large_domain(
        self, knowledge_base: PostgresKnowledgeBase
    ) -> None:
        await fill(knowledge_base, LARGE)
        progress: list[IndexProgress] = []
        assert (await knowledge_base.stats(tenant="tenant"))[0].index == "exact"
        assert await knowledge_base.build_indexes(on_progress=progress.append) == ["math"]
        assert await knowledge_base.build_indexes() == []
        assert (await knowledge_base.stats(tenant="tenant"))[0].index == "hnsw"
        assert all(p.domain == "math" and p.done <= p.total for p in progress)
        found = await knowledge_base.search(at_angle(0), k=64, domain="math", tenant="tenant")
        similarities = [s["similarity"] for s in found.samples]
        assert len(similarities) == 64
        assert similarities == sorted(similarities, reverse=True)

    async def test_a_small_domain_needs_none(self, knowledge_base: PostgresKnowledgeBase) -> None:
        await fill(knowledge_base, 100)
        assert await knowledge_base.build_indexes() == []

    async def test_a_search_has_a_missing_index_built(
        self, database: Database, embedder: Embedder
    ) -> None:
        knowledge_base = PostgresKnowledgeBase(database, embedder, index_rows=INDEX_ROWS)
        await fill(knowledge_base, LARGE)
        await asyncio.gather(
            *(
                knowledge_base.search(at_angle(0), k=1, domain="math", tenant="tenant")
                for _ in range(5)
            )
        )

        async def is_indexed() -> bool:
            return (await knowledge_base.stats(tenant="tenant"))[0].index == "hnsw"

        await until(is_indexed)

    async def test_an_index_that_an_interrupted_build_left_is_built_again(
        self, knowledge_base: PostgresKnowledgeBase, postgres_dsn: str
    ) -> None:
        await fill(knowledge_base, LARGE)
        await knowledge_base.build_indexes()
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(
                "update pg_index set indisvalid = false "
                "where indexrelid = 'rttc_sample_1_hnsw'::regclass"
            )
        found = await knowledge_base.search(at_angle(0), k=9, domain="math", tenant="tenant")
        assert len(found.samples) == 9
        assert await knowledge_base.build_indexes() == ["math"]

    async def test_a_cancelled_build_can_be_made_up_for(
        self, knowledge_base: PostgresKnowledgeBase
    ) -> None:
        await fill(knowledge_base, LARGE)
        build = asyncio.ensure_future(knowledge_base.build_indexes())
        await asyncio.sleep(0)
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
        await knowledge_base.build_indexes()
        assert (await knowledge_base.stats(tenant="tenant"))[0].index == "hnsw"

    @pytest.mark.parametrize(
        ("role", "row_bytes", "build"),
        [
            pytest.param("1200MB", 1024, "64MB", id="what-its-rows-take"),
            pytest.param("64MB", 10_000_000, "1GB", id="no-more-than-ours"),
            pytest.param("1200MB", 10_000_000, "1200MB", id="no-more-than-the-roles"),
        ],
    )
    async def test_a_build_has_the_memory_that_its_rows_take_and_its_role_may_have(
        self,
        knowledge_base: PostgresKnowledgeBase,
        postgres_dsn: str,
        monkeypatch: pytest.MonkeyPatch,
        role: str,
        row_bytes: int,
        build: str,
    ) -> None:
        monkeypatch.setattr(sample_index, "_ROW_BYTES", row_bytes)
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            name = sql.Identifier(connection.info.dbname)
            connection.execute(
                sql.SQL("alter database {} set maintenance_work_mem = {}").format(name, role)
            )
        seen: list[Any] = []

        def noted(connection: psycopg.Connection[Any], *args: Any) -> None:
            seen.append(connection.execute("show maintenance_work_mem").fetchone())
            built(connection, *args)

        built: Any = sample_index._build  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(sample_index, "_build", noted)
        await fill(knowledge_base, LARGE)
        assert await knowledge_base.build_indexes() == ["math"]
        assert seen == [(build,)]

    async def test_an_index_is_built_on_a_callers_pool(
        self, postgres_dsn: str, embedder: Embedder
    ) -> None:
        little = {"options": "-c maintenance_work_mem=32MB"}
        with ConnectionPool(postgres_dsn, kwargs=little, min_size=1, max_size=4, open=True) as pool:
            database = Database(pool)
            knowledge_base = PostgresKnowledgeBase(
                database, embedder, auto_index=False, index_rows=INDEX_ROWS
            )
            await fill(knowledge_base, LARGE)
            built = await knowledge_base.build_indexes(on_progress=lambda _: None)
            with pool.connection() as connection:
                memory = connection.execute("show maintenance_work_mem").fetchone()
            await asyncio.to_thread(database.close)
        assert (built, memory) == (["math"], ("32MB",))

    @pytest.mark.parametrize("domain", ["math", None], ids=["in-a-domain", "in-all-domains"])
    async def test_a_tenant_far_from_the_query_gets_its_k_samples(
        self, knowledge_base: PostgresKnowledgeBase, domain: str | None
    ) -> None:
        await fill(knowledge_base, LARGE)
        await fill(knowledge_base, 12, tenant="small", around=150, first=9000)
        await knowledge_base.build_indexes()
        found = await knowledge_base.search(at_angle(0), k=8, domain=domain, tenant="small")
        assert len(found.samples) == 8

    async def test_where_the_index_comes_back_short_all_rows_are_compared(
        self, knowledge_base: PostgresKnowledgeBase, database: Database
    ) -> None:
        await fill(knowledge_base, LARGE)
        await fill(knowledge_base, 12, tenant="small", around=150, first=9000)
        await knowledge_base.build_indexes()
        names: list[str] = []

        def work(session: DatabaseSession) -> SearchResult:
            # A scope that makes 12 rows look like enough for the index.
            scope = one_domain(LARGE, index_rows=INDEX_ROWS)
            session.connection.execute("set hnsw.max_scan_tuples = 100")
            session.connection.execute("set enable_seqscan = off")  # too few rows for the planner
            session.connection.execute("set enable_bitmapscan = off")
            session.connection.execute("set enable_sort = off")
            session.connection.execute("set enable_sort = off")  # or the primary key is cheaper
            original = session.execute

            def execute(name: str, /, **parameters: Any) -> Any:
                names.append(name)
                return original(name, **parameters)

            session.execute = execute  # type: ignore[method-assign]  # to see which were run
            vector = HalfVector(at_angle(0))
            question = SampleQuery(vector=vector, k=8, domain=None, tenant="small")
            try:
                return search(session, scope, question)
            finally:
                session.connection.execute("discard all")
                session.connection.execute("reset enable_sort")

        found = await database.execute_work("search", work, error=KnowledgeBaseError)
        assert len(found.samples) == 8
        assert names == ["search_settings", "search_hnsw", "search_exact"]

    @pytest.mark.parametrize(
        ("samples", "partition", "exact"),
        [
            pytest.param(4999, 4999, True, id="small"),
            pytest.param(5000, 5000, False, id="large"),
            pytest.param(5000, 9999, False, id="most-of-a-shared-one"),
            pytest.param(9999, 30_000, True, id="small-part-of-a-shared-one"),
            pytest.param(10_000, 30_000, False, id="large-part-of-a-shared-one"),
            pytest.param(0, 0, True, id="nothing"),
        ],
    )
    def test_few_rows_are_compared_all(self, samples: int, partition: int, exact: bool) -> None:
        scope = one_domain(samples, partition=partition, index_rows=5000)
        assert scope.is_exact is exact

    @pytest.mark.parametrize("with_embeddings", [False, True])
    async def test_the_plans_use_the_indexes_that_they_are_meant_to(
        self, knowledge_base: PostgresKnowledgeBase, database: Database, with_embeddings: bool
    ) -> None:
        await fill(knowledge_base, 3000)
        await fill(knowledge_base, 12, tenant="small", around=150, first=9000)
        await knowledge_base.build_indexes()

        def explain(name: str, tenant: str) -> Callable[[DatabaseSession], str]:
            def work(session: DatabaseSession) -> str:
                session.connection.execute("analyze rttc_sample")
                asked = {
                    "domain_ids": [1],
                    "tenant": tenant,
                    "vector": HalfVector(at_angle(0)),
                    "k": 8,
                    "with_embeddings": with_embeddings,
                }
                plan = session.connection.execute(b"explain " + statement(name), asked)
                return "\n".join(line for (line,) in plan.fetchall())

            return work

        async def plan(name: str, tenant: str) -> str:
            return await database.execute_work(
                "explain", explain(name, tenant), error=KnowledgeBaseError
            )

        assert "Index Scan using rttc_sample_1_hnsw" in await plan("search_hnsw", "tenant")
        for tenant in ("tenant", "small"):
            assert "hnsw" not in await plan("search_exact", tenant)
        assert "rttc_sample_1_pkey" in await plan("search_exact", "small")

    @pytest.mark.parametrize("choice", CHOICES)
    async def test_a_later_search_is_one_round_trip(
        self,
        knowledge_base: PostgresKnowledgeBase,
        monkeypatch: pytest.MonkeyPatch,
        choice: SamplesChoice,
    ) -> None:
        await fill(knowledge_base, 20)
        trips: list[str] = []
        together = DatabaseSession.together

        def counted_trip(session: DatabaseSession) -> AbstractContextManager[None]:
            trips.append("together")
            return together(session)

        monkeypatch.setattr(DatabaseSession, "together", counted_trip)
        first = await self.ids(knowledge_base, at_angle(0), choice)
        assert len(trips) == 2
        assert await self.ids(knowledge_base, at_angle(0), choice) == first
        assert len(trips) == 3

    async def test_embeddings_are_fetched_for_a_choice_alone(
        self, knowledge_base: PostgresKnowledgeBase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(knowledge_base, LARGE)
        await knowledge_base.build_indexes()
        await fill(knowledge_base, 100, tenant="small", first=9000)
        fetched: dict[tuple[str, SamplesChoice], list[bool]] = {}
        chosen = SampleQuery.chosen

        def seen(question: SampleQuery, rows: Sequence[DictRow]) -> Sequence[DictRow]:
            place = question.tenant, question.choice
            fetched[place] = [row["embedding"] is not None for row in rows]
            return chosen(question, rows)

        monkeypatch.setattr(SampleQuery, "chosen", seen)
        for tenant in ("tenant", "small"):  # by the index, and exactly
            for choice in CHOICES:
                found = await knowledge_base.search(
                    at_angle(0), k=8, domain="math", tenant=tenant, choice=choice
                )
                assert len(found.samples) == 8
        assert fetched == {
            ("tenant", "nearest"): [False] * 8,
            ("tenant", "sift"): [True] * 64,
            ("small", "nearest"): [False] * 8,
            ("small", "sift"): [True] * 64,
        }

    async def test_what_others_stored_since_the_last_search_is_found(
        self, knowledge_base: PostgresKnowledgeBase, database: Database, embedder: Embedder
    ) -> None:
        async def nearest() -> tuple[list[str], int]:
            found = await knowledge_base.search(at_angle(50), k=1, domain=None, tenant="tenant")
            return [sample["question"] for sample in found.samples], found.revision

        assert await nearest() == ([], 0)
        other = PostgresKnowledgeBase(database, embedder)
        for number, (domain, angle) in enumerate([("math", 0), ("math", 20), ("law", 50)]):
            sample = new_sample(number, domain=domain)
            await other.ingest([sample], [at_angle(angle)], tenant="tenant")
            assert await nearest() == ([sample.question], number + 1)
        await other.delete(domain="law", tenant="tenant")
        assert (await nearest())[0] == [new_sample(1).question]

    async def test_a_re_embedding_since_the_last_search_is_reported(
        self, knowledge_base: PostgresKnowledgeBase, database: Database
    ) -> None:
        await fill(knowledge_base, 20)
        await knowledge_base.search(at_angle(0), k=1, domain="math", tenant="tenant")
        await PostgresKnowledgeBase(database, NumberEmbedder(5, "new")).reembed()
        for _ in range(2):
            with pytest.raises(KnowledgeBaseError, match="rttc kb reembed"):
                await knowledge_base.search(at_angle(0), k=1, domain="math", tenant="tenant")

    async def test_an_exact_and_an_index_search_agree(
        self, knowledge_base: PostgresKnowledgeBase
    ) -> None:
        await fill(knowledge_base, LARGE)  # 0.28 degrees apart
        queries = [at_angle(number * 10) for number in range(7)]
        before = [await self.ids(knowledge_base, query) for query in queries]
        await knowledge_base.build_indexes()
        after = [await self.ids(knowledge_base, query) for query in queries]
        common = sum(len(a & b) for a, b in zip(before, after, strict=True))
        assert common / (8 * len(queries)) >= 0.8  # half precision makes ties of neighbours

    async def test_too_few_candidates_of_the_index_are_made_up_for(
        self, knowledge_base: PostgresKnowledgeBase, database: Database
    ) -> None:
        vectors = [*[at_angle(20)] * 5, at_angle(-25)]
        samples = [new_sample(number) for number in range(6)]
        await knowledge_base.ingest(samples, vectors, tenant="tenant")
        scope = one_domain(6, index_rows=1)
        question = SampleQuery(
            vector=HalfVector(at_angle(0)), k=2, domain=None, tenant="tenant", choice="sift"
        )

        def work(session: DatabaseSession) -> SearchResult:
            of_the_index = question.send_exact(session, scope).fetchall()[:3]
            return search(session, scope, question, of_the_index)

        found = await database.execute_work("search", work, error=KnowledgeBaseError)
        assert found.samples[1]["question"] == "question 5"

    @pytest.mark.parametrize(
        ("rows", "width"),
        [(5_000, 100), (100_000, 100), (1_000_000, 200), (10_000_000, 300)],
    )
    async def test_more_samples_are_searched_more_widely(
        self, knowledge_base: PostgresKnowledgeBase, database: Database, rows: int, width: int
    ) -> None:
        await knowledge_base.ingest([new_sample(0)], [at_angle(0)], tenant="tenant")
        scope = one_domain(rows, index_rows=1)
        question = SampleQuery(vector=HalfVector(at_angle(0)), k=8, domain=None, tenant="tenant")

        def work(session: DatabaseSession) -> Any:
            with session.connection.transaction():
                question.send(session, scope)
                return session.connection.execute("show hnsw.ef_search").fetchone()

        found = await database.execute_work("search", work, error=KnowledgeBaseError)
        assert found == (str(width),)

    async def ids(
        self,
        knowledge_base: PostgresKnowledgeBase,
        vector: list[float],
        choice: SamplesChoice = "nearest",
    ) -> set[str]:
        found = await knowledge_base.search(
            vector, k=8, domain="math", tenant="tenant", choice=choice
        )
        return {s["id"] for s in found.samples}


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Ask the database until something is so; there is nothing else to wait for."""
    end = time.monotonic() + 60
    while not await is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def samples_read(plan: dict[str, Any]) -> Iterator[float]:
    """Yield how many samples each scan of a plan read, filtered ones included."""
    if plan.get("Relation Name", "").startswith("rttc_sample") and "Scan" in plan["Node Type"]:
        filtered = plan.get("Rows Removed by Filter", 0)
        yield (plan["Actual Rows"] + filtered) * plan["Actual Loops"]
    for child in plan.get("Plans", ()):
        yield from samples_read(child)


class TestIngest:
    @pytest.mark.parametrize("name", ["outdated_ids", "changed_metadata", "take_over_external_ids"])
    async def test_a_batch_reads_its_own_samples_alone_where_there_are_no_statistics(
        self, knowledge_base: PostgresKnowledgeBase, postgres_dsn: str, name: str
    ) -> None:
        samples = [
            NewSample(
                question=f"question {n}",
                answer="a",
                domain="math",
                external_id=f"e{n}",
                metadata={"n": n},
            )
            for n in range(2000)
        ]
        vectors = [at_angle(n / 10) for n in range(len(samples))]
        await knowledge_base.ingest(samples, vectors, tenant="tenant")
        batch = samples[:20]
        ids = sample_ids(batch)
        wanted = {
            **named(batch, ids),
            **described(batch, ids),
            "domain_ids": [1],
            "tenant": "tenant",
        }
        with psycopg.connect(postgres_dsn) as connection:
            query = b"explain (analyze, timing off, format json) " + statement(name)
            row = connection.execute(query, wanted).fetchone()
        assert row is not None
        assert sum(samples_read(row[0][0]["Plan"])) <= len(batch)

    async def test_a_killed_one_leaves_whole_batches_and_is_resumed(
        self, postgres_dsn: str, database: Database
    ) -> None:
        child = Child(ingest_batches, postgres_dsn, 4, 3000)
        for _ in range(3):
            child.said()
        child.kill()  # in the middle of the third batch
        stored = counted(postgres_dsn, "select count(*) from rttc_sample")
        assert stored in (6000, 9000)
        row = counted(postgres_dsn, "select array[samples, revision] from rttc_tenant_domain")
        assert row == [stored, stored // 3000]
        embedder = NumberEmbedder()
        knowledge_base = PostgresKnowledgeBase(
            database, embedder, auto_index=False, index_rows=INDEX_ROWS
        )
        samples = [new_sample(number) for number in range(12_000)]
        missing = await knowledge_base.missing(samples, tenant="tenant")
        assert missing == [False] * stored + [True] * (12_000 - stored)
        vectors = await embedder.embed([s.question for s in samples])
        added = await knowledge_base.ingest(samples, vectors, tenant="tenant")
        assert added.new == 12_000 - stored

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            pytest.param(
                NewSample(question="a\0b", answer="x", domain="d"),
                "question of sample .* NUL character at 1",
                id="nul-in-the-question",
            ),
            pytest.param(
                NewSample(question="q", answer="x\ud83d", domain="d"),
                "answer of sample 'q' holds a lone surrogate at 1",
                id="half-a-pair-in-the-answer",
            ),
            pytest.param(
                NewSample(question="q", answer="x", domain="d", external_id="\0"),
                "id of sample .* NUL",
                id="nul-in-the-id",
            ),
            pytest.param(
                NewSample(question="q", answer="x", domain="d", metadata={"a": [{"b": "\0"}]}),
                "metadata of sample 'q' holds a NUL",
                id="nul-in-the-metadata",
            ),
            pytest.param(
                NewSample(question="q", answer="x", domain="d", metadata={"a\ud800": 1}),
                "metadata of sample 'q' holds a lone surrogate at 1",
                id="half-a-pair-in-a-key",
            ),
            pytest.param(
                NewSample(question="q", answer="x", domain="d", metadata={"a": {1, 2}}),
                "metadata of sample 'q' is not JSON.*set",
                id="no-json",
            ),
            pytest.param(
                NewSample(question="q", answer="x", domain="d", metadata={"a": math.nan}),
                "metadata of sample 'q' is not JSON",
                id="not-a-number",
            ),
        ],
    )
    async def test_what_postgres_cannot_store_is_refused_whole(
        self, knowledge_base: PostgresKnowledgeBase, sample: NewSample, message: str
    ) -> None:
        samples = [new_sample(1), sample]
        with pytest.raises(ConfigurationError, match=message):
            await knowledge_base.ingest(samples, [at_angle(0)] * 2, tenant="t")
        assert await knowledge_base.stats(tenant="t") == []

    @pytest.mark.parametrize(
        ("vector", "error"),
        [
            pytest.param([math.nan, 0, 0], KnowledgeBaseError, id="nan"),
            pytest.param([math.inf, 0, 0], KnowledgeBaseError, id="infinite"),
            pytest.param([1e6, 0, 0], ConfigurationError, id="beyond-half-precision"),
        ],
    )
    async def test_a_vector_of_no_use_is_refused(
        self,
        knowledge_base: PostgresKnowledgeBase,
        vector: list[float],
        error: type[Exception],
    ) -> None:
        samples = [new_sample(1), new_sample(2)]
        with pytest.raises(error):
            await knowledge_base.ingest(samples, [at_angle(0), vector], tenant="t")
        assert await knowledge_base.stats(tenant="t") == []

    async def test_huge_and_odd_values_come_back(
        self, knowledge_base: PostgresKnowledgeBase
    ) -> None:
        metadata = {"text": "x" * 99_000, "escape": "\\u0000", "deep": [[[["ü🧮"]]]]}
        sample = NewSample(
            question="q" * 100_000, answer="\t\r\n'\"\\", domain="d", metadata=metadata
        )
        await knowledge_base.ingest([sample], [at_angle(0)], tenant="t")
        found = await knowledge_base.search(at_angle(0), k=1, domain="d", tenant="t")
        assert found.samples[0]["question"] == sample.question
        assert found.samples[0]["answer"] == sample.answer
        assert found.samples[0].get("metadata") == metadata

    async def test_a_cancelled_one_stores_nothing(
        self, knowledge_base: PostgresKnowledgeBase, postgres_dsn: str
    ) -> None:
        await fill(knowledge_base, 1)
        samples = [new_sample(number) for number in range(10, 20_010)]
        vectors = [at_angle(0)] * 20_000
        task = asyncio.ensure_future(knowledge_base.ingest(samples, vectors, tenant="tenant"))

        async def is_copying() -> bool:
            return bool(
                counted(
                    postgres_dsn,
                    "select count(*) from pg_stat_activity where query ~ '^copy rttc_sample' "
                    "and pid <> pg_backend_pid() and datname = current_database()",
                )
            )

        await until(is_copying)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await knowledge_base.ingest([new_sample(5)], [at_angle(0)], tenant="tenant")
        assert counted(postgres_dsn, "select count(*) from rttc_sample") == 2


async def test_deleting_leaves_other_tenants_and_their_index(
    knowledge_base: PostgresKnowledgeBase, postgres_dsn: str
) -> None:
    await fill(knowledge_base, LARGE)
    await fill(knowledge_base, 10, tenant="other")
    await knowledge_base.build_indexes()
    assert await knowledge_base.delete(domain="math", tenant="other") == 10
    assert (await knowledge_base.stats(tenant="tenant"))[0].index == "hnsw"
    await fill(knowledge_base, 10, tenant="other")
    (theirs,) = await knowledge_base.stats(tenant="other")
    assert theirs.index == "exact"  # that the domain is large is another tenant's doing
    assert await knowledge_base.delete(domain="math", tenant="other") == 10
    assert await knowledge_base.delete(domain="math", tenant="tenant") == LARGE
    assert counted(postgres_dsn, "select count(*) from rttc_sample") == 0
    await fill(knowledge_base, 10)
    assert (await knowledge_base.stats(tenant="tenant"))[0].index == "exact"


async def test_many_domains_at_once_share_one_partition(
    knowledge_base: PostgresKnowledgeBase, postgres_dsn: str
) -> None:
    await asyncio.gather(
        *(
            knowledge_base.ingest(
                [new_sample(number, f"domain {number % 4}")], [at_angle(0)], tenant="t"
            )
            for number in range(24)
        )
    )
    partitions = "select count(*) from pg_inherits where inhparent = 'rttc_sample'::regclass"
    assert counted(postgres_dsn, partitions) == 1
    assert counted(postgres_dsn, "select count(*) from rttc_domain") == 4
    assert counted(postgres_dsn, "select count(*) from rttc_sample") == 24
