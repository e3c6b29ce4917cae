"""The same rows in our knowledge base and in the tables of langchain-postgres."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import psycopg
from langchain_core.embeddings import Embeddings
from pgvector import HalfVector
from pgvector import Vector as PgVector
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Json

from benchmarks.peers.libraries import named, peer
from benchmarks.tools.databases import Prepared
from benchmarks.tools.synthetic import DIMENSION, DOMAIN, Rows, number_of
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.statements import statement
from rttc_graph.samples.ingest import DEFAULT_BATCH_SIZE, ingest

TENANT = "benchmark"


@dataclass(frozen=True, slots=True)
class Ours:
    """Our knowledge base over prepared vectors."""

    knowledge_base: PostgresKnowledgeBase
    embedder: Prepared

    def add(self, rows: Rows, *, batch_size: int = DEFAULT_BATCH_SIZE) -> float:
        """Ingest as `rttc kb ingest` does; return rows a second, embedding left out."""
        vectors = rows.vectors.tolist()
        questions = (sample.question for sample in rows.samples)
        self.embedder.vectors = dict(zip(questions, vectors, strict=True))
        report = asyncio.run(
            ingest(
                rows.samples,
                self.knowledge_base,
                self.embedder,
                tenant=TENANT,
                batch_size=batch_size,
            )
        )
        self.embedder.vectors = {}
        return report.stored / (report.seconds - report.embed_seconds)

    def build_index(self) -> None:
        """Build what a search would have built in the background."""
        asyncio.run(self.knowledge_base.build_indexes())

    def search(self, vectors: Iterable[list[float]], *, k: int) -> Timed:
        """Search one after the other on one event loop."""

        async def work() -> Timed:
            timed = Timed()
            for vector in vectors:
                began = time.perf_counter()
                found = await self.knowledge_base.search(vector, k=k, domain=DOMAIN, tenant=TENANT)
                ended = time.perf_counter()
                timed.add(began, ended, [number_of(sample["question"]) for sample in found.samples])
            return timed

        return asyncio.run(work())


@dataclass(slots=True)
class Timed:
    """What was found and how long each call took."""

    milliseconds: list[float] = field(default_factory=list[float])
    found: list[Any] = field(default_factory=list[Any])

    def add(self, began: float, ended: float, found: Any) -> None:
        """Note one call."""
        self.milliseconds.append(1000 * (ended - began))
        self.found.append(found)

    @property
    def p50(self) -> float:
        """Median of the calls, milliseconds."""
        return statistics.median(self.milliseconds)


@contextmanager
def ours(dsn: str, *, dimension: int = DIMENSION) -> Generator[Ours]:
    """Yield our knowledge base in a migrated database."""
    database = Database(dsn)
    embedder = Prepared(dimension)
    try:
        # An index is built when a benchmark says so, not while it measures something else.
        yield Ours(PostgresKnowledgeBase(database, embedder, auto_index=False), embedder)
    finally:
        database.close()


class _NoEmbeddings(Embeddings):
    """PGVectorStore wants an embedder; it gets vectors only."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


TABLE = "langchain_rows"
_COPY = f"""copy {TABLE} (langchain_id, content, embedding, langchain_metadata)
from stdin with (format binary)"""


class LangChainStore:
    """PGVectorStore, which langchain-postgres recommends over its older PGVector.

    psycopg as the driver and the synchronous methods: of the four ways in, the fastest here.
    """

    def __init__(self, dsn: str, *, dimension: int = DIMENSION) -> None:
        self._library = peer("langchain_postgres")
        self._indexes = peer("langchain_postgres.v2.indexes")
        self._dsn = dsn
        self._engine = self._library.PGEngine.from_connection_string(sqlalchemy_url(dsn))
        self._engine.init_vectorstore_table(TABLE, dimension, overwrite_existing=True)
        self._store = self.tuned(ef_search=None)

    @property
    def name(self) -> str:
        """With its version."""
        return named("langchain-postgres", "PGVectorStore over psycopg")

    def tuned(self, *, ef_search: int | None) -> Any:
        """Return a store over the table with a width of search; `None` is the server's."""
        options = None if ef_search is None else self._indexes.HNSWQueryOptions(ef_search)
        return self._library.PGVectorStore.create_sync(
            self._engine, _NoEmbeddings(), TABLE, index_query_options=options
        )

    def add(self, rows: Rows) -> float:
        """Store rows by `aadd_embeddings`; return rows a second."""
        texts, metadata = contents(rows)
        vectors = rows.vectors.tolist()
        began = time.perf_counter()
        asyncio.run(self._store.aadd_embeddings(texts, vectors, metadatas=metadata))
        return len(texts) / (time.perf_counter() - began)

    def copy(self, rows: Rows) -> None:
        """Store rows by COPY, where its own methods would take many minutes."""
        with psycopg.connect(self._dsn) as connection:
            register_vector(connection)
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(("uuid", "text", "vector", "json"))
                for text, more, vector in zip(*contents(rows), rows.vectors, strict=True):
                    copy.write_row((uuid.uuid4(), text, PgVector(vector), Json(more)))

    def build_index(self) -> None:
        """Build its HNSW index with its defaults, which are ours too: m 16, ef_construction 64."""
        self._store.apply_vector_index(self._indexes.HNSWIndex())
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"analyze {TABLE}")

    def bytes(self) -> int:
        """Return the size of the table with its indexes."""
        with psycopg.connect(self._dsn) as connection:
            row = connection.execute("select pg_total_relation_size(%s::regclass)", (TABLE,))
            return int((row.fetchone() or (0,))[0])

    def close(self) -> None:
        """Close its connections."""
        asyncio.run(self._engine.close())


def langchain_search(store: Any, vectors: Iterable[list[float]], *, k: int) -> Timed:
    """Search a PGVectorStore one after the other."""
    timed = Timed()
    for vector in vectors:
        began = time.perf_counter()
        found = store.similarity_search_with_score_by_vector(vector, k=k)
        ended = time.perf_counter()
        timed.add(began, ended, [number_of(document.page_content) for document, _ in found])
    return timed


def contents(rows: Rows) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the texts and the metadata that hold what our rows hold."""
    more = [{"answer": s.answer, "domain": s.domain, **s.metadata} for s in rows.samples]
    return [sample.question for sample in rows.samples], more


def sqlalchemy_url(dsn: str) -> str:
    """Return a DSN in SQLAlchemy's form, for psycopg 3."""
    known = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    return f"postgresql+psycopg://?{urlencode(known)}"


class OldLangChainStore:
    """PGVector of langchain-postgres, which calls it outdated; it stores in one statement."""

    def __init__(self, dsn: str, *, dimension: int = DIMENSION) -> None:
        library = peer("langchain_postgres")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is outdated
            self._store = library.PGVector(
                _NoEmbeddings(),
                connection=sqlalchemy_url(dsn),
                embedding_length=dimension,  # without one it can have no index
                create_extension=False,  # it is there
            )

    @property
    def name(self) -> str:
        """With its version."""
        return named("langchain-postgres", "PGVector, its outdated store, over psycopg")

    def add(self, rows: Rows) -> float:
        """Store rows by `add_embeddings`; return rows a second."""
        texts, metadata = contents(rows)
        vectors = rows.vectors.tolist()
        began = time.perf_counter()
        self._store.add_embeddings(texts, vectors, metadatas=metadata)
        return len(texts) / (time.perf_counter() - began)

    def close(self) -> None:
        """Close its connections."""
        self._store._engine.dispose()  # it has no other way


class BareSql:
    """The statement of a search on one connection of psycopg, prepared, with binary results."""

    name = named("psycopg", "the search statement alone, prepared, one connection")

    def __init__(self, dsn: str, *, exact: bool = False) -> None:
        self._query = statement("search_exact" if exact else "search_hnsw")
        self._connection = psycopg.connect(dsn, autocommit=True)
        register_vector(self._connection)
        self._connection.execute("set hnsw.ef_search = 100")
        self._connection.execute("set hnsw.iterative_scan = relaxed_order")
        row = self._connection.execute("select id from rttc_domain where name = %s", (DOMAIN,))
        self._domain_ids = [found for (found,) in row]

    def search(self, vectors: Iterable[list[float]], *, k: int) -> Timed:
        """Search one after the other."""
        timed = Timed()
        for vector in vectors:
            began = time.perf_counter()
            cursor = self._connection.cursor(binary=True)
            asked = {"vector": HalfVector(vector), "k": k, "with_embeddings": False}
            asked |= {"tenant": TENANT, "domain_ids": self._domain_ids}
            cursor.execute(self._query, asked, prepare=True)
            found = cursor.fetchall()
            timed.add(began, time.perf_counter(), [number_of(row[1]) for row in found])
        return timed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
