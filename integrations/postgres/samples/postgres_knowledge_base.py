"""Solved questions in Postgres, searchable by meaning: the knowledge base.

Large domains have a partition each, so that a search of one reads that domain's index alone; small
ones, which are searched exactly, share one.
Each change raises the revision of the tenant's domain, in the same transaction.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pgvector import HalfVector
from psycopg import sql
from psycopg.rows import DictRow

from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.samples.embedder_record import (
    MAX_INDEXED_DIMENSION,
    EmbedderIdentity,
    claim,
)
from rttc_graph.integrations.postgres.samples.managed_samples import (
    counted_samples,
    delete_listed,
    listed_page,
)
from rttc_graph.integrations.postgres.samples.read_replica import ReadReplica
from rttc_graph.integrations.postgres.samples.reembedding import Reembedding, ReembedProgress
from rttc_graph.integrations.postgres.samples.sample_index import (
    IndexBuilder,
    IndexProgress,
    has_own_partition,
)
from rttc_graph.integrations.postgres.samples.sample_rows import (
    SampleRow,
    copy_rows,
    described,
    ensure_domains,
    named,
    sample_ids,
)
from rttc_graph.integrations.postgres.samples.sample_search import (
    INDEX_ROWS,
    SampleQuery,
    SampleSearch,
    SearchScope,
)
from rttc_graph.protocols import (
    DomainStats,
    Embedder,
    Ingested,
    NewSample,
    SearchResult,
    Vector,
)
from rttc_graph.protocols.managed_knowledge_base import SampleFilter, SamplePage, checked_page
from rttc_graph.samples.unique_ids import check_ids
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresKnowledgeBase",)

T = TypeVar("T")


class PostgresKnowledgeBase:
    """A `ManagedKnowledgeBase` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
        embedder: Made the vectors; asked for its fingerprint and dimension at the first use.
        auto_index: Whether a search that finds a large domain without an index has the index
            built in the background, searching exactly meanwhile.
        index_rows: Samples from which on a domain has an index. At 5,000 an exact search takes
            some 5 ms, at 10,000 it takes 11 ms, a search by index 0.5 to 1 ms.
        replica: A copy that searches are asked of first; what it cannot do, the database does.
    """

    def __init__(
        self,
        database: Database,
        embedder: Embedder,
        *,
        auto_index: bool = True,
        index_rows: int = INDEX_ROWS,
        replica: ReadReplica | None = None,
    ) -> None:
        self._database = database
        self._replica = replica
        self._replica_samples = SampleSearch(index_rows)
        self._embedder = embedder
        self._auto_index = auto_index
        self._index_rows = index_rows
        self._indexes = IndexBuilder(database, index_rows)
        self._samples = SampleSearch(index_rows)

    async def search(
        self,
        vector: Vector,
        *,
        k: int,
        domain: str | None,
        tenant: str,
        choice: SamplesChoice = "nearest",
    ) -> SearchResult:
        """Return `k` samples for `vector`, nearest first; never fewer while there are `k`."""
        if k < 1:
            raise ConfigurationError(f"k={k!r} must be at least 1")
        checked_name("tenant", tenant)
        if domain is not None:
            checked_name("domain", domain)
        mine = await EmbedderIdentity.from_embedder(self._embedder)
        mine.check_vector(vector)
        query = SampleQuery(
            vector=HalfVector(list(vector)), k=k, domain=domain, tenant=tenant, choice=choice
        )
        result, scope = await self._find(query, mine)
        wants_index = scope.wants_index and mine.dimension <= MAX_INDEXED_DIMENSION
        if wants_index and self._auto_index:
            self._indexes.build_in_background()
        return result

    async def _find(
        self, query: SampleQuery, mine: EmbedderIdentity
    ) -> tuple[SearchResult, SearchScope]:
        """Search the copy if there is one that can be used, else the database."""
        action, fallback = "search the knowledge base", ""
        if self._replica is not None:
            there = partial(self._replica_samples.find, query=query, mine=mine)
            found, fallback = await self._replica.read(action, there)
            if found is not None:
                return found
        here = partial(self._samples.find, query=query, mine=mine)
        result, scope = await self._execute(action, here)
        return replace(result, fallback=fallback), scope

    async def missing(self, samples: Sequence[NewSample], *, tenant: str) -> list[bool]:
        """Tell for each sample whether an ingest would store or change it."""
        checked_name("tenant", tenant)
        names = _domains_of(samples)
        ids = sample_ids(samples)
        with_ids, with_metadata = named(samples, ids), described(samples, ids)

        def work(session: DatabaseSession) -> tuple[set[bytes], set[tuple[bytes, str | None]]]:
            domain_ids = [row["id"] for row in session.rows("domain_ids", names=names)]
            place = {"domain_ids": domain_ids, "tenant": tenant}
            with session.together():
                stored = session.execute("stored_ids", ids=ids, **place)
                outdated = session.execute("outdated_ids", **with_ids, **place)
                changed = session.execute("changed_metadata", **with_metadata, **place)
            replacing = {(row["wanted_id"], row["external_id"]) for row in outdated}
            replacing |= {(row["id"], row["external_id"]) for row in changed}
            return {row["id"] for row in stored}, replacing

        stored, replacing = await self._execute("look for stored samples", work)
        return [
            key not in stored or (key, sample.external_id) in replacing
            for sample, key in zip(samples, ids, strict=True)
        ]

    async def ingest(
        self, samples: Sequence[NewSample], vectors: Sequence[Vector], *, tenant: str
    ) -> Ingested:
        """Store the samples in one transaction, in the place of others with their `external_id`.

        After a connection that was lost at the very end the count may be too low, by samples that
        were stored all the same.

        Raises:
            ConfigurationError: A sample cannot be stored, or two have one id and other content;
                nothing was stored.
            KnowledgeBaseError: Nothing of this call was stored.
        """
        checked_name("tenant", tenant)
        if len(samples) != len(vectors):
            raise ConfigurationError(
                f"there are {len(samples)} samples and {len(vectors)} vectors; give one for each"
            )
        if not samples:
            return Ingested(new=0)
        check_ids(samples)
        mine = await EmbedderIdentity.from_embedder(self._embedder)
        for vector in vectors:
            mine.check_vector(vector)
        work = partial(_ingest, mine=mine, samples=samples, vectors=vectors, tenant=tenant)
        return await self._write(f"store {len(samples)} samples", work)

    async def delete(self, *, domain: str, tenant: str) -> int:
        """Delete a domain's samples and return how many there were."""
        checked_name("tenant", tenant)
        checked_name("domain", domain)
        work = partial(_delete, domain=domain, tenant=tenant)
        return await self._write(f"delete domain {domain!r}", work)

    async def list_samples(
        self,
        which: SampleFilter,
        *,
        tenant: str,
        limit: int,
        after: str | None = None,
        with_vectors: bool = False,
    ) -> SamplePage:
        """Return a page of the samples that are meant, by domain and then by id."""
        _check_place(which, tenant)
        place = checked_page(limit, after)
        work = partial(
            listed_page,
            which=which,
            tenant=tenant,
            limit=limit,
            after=place,
            with_vectors=with_vectors,
        )
        return await self._execute("list samples", work)

    async def count_samples(self, which: SampleFilter, *, tenant: str) -> dict[str, int]:
        """Return how many samples are meant, by domain."""
        _check_place(which, tenant)
        return await self._execute(
            "count samples", partial(counted_samples, which=which, tenant=tenant)
        )

    async def delete_samples(self, which: SampleFilter, *, tenant: str) -> int:
        """Delete the samples that are meant, in one transaction, and return how many there were."""
        which.check_for_delete()
        _check_place(which, tenant)
        if which.domain is not None and which == SampleFilter(domain=which.domain):
            return await self.delete(domain=which.domain, tenant=tenant)
        return await self._write(
            "delete samples", partial(delete_listed, which=which, tenant=tenant)
        )

    async def stats(self, *, tenant: str) -> list[DomainStats]:
        """Return the size of each domain, by name: of the tenant's own rows, without indexes.

        Of many samples the bytes are estimated. Nothing in it depends on other tenants.
        """
        checked_name("tenant", tenant)

        def work(session: DatabaseSession) -> list[DomainStats]:
            return [
                DomainStats(
                    domain=row["domain"],
                    samples=row["samples"],
                    revision=row["revision"],
                    bytes=row["bytes"],
                    index="hnsw" if row["has_index"] else "exact",
                )
                for row in session.rows("domain_stats", tenant=tenant, index_rows=self._index_rows)
            ]

        return await self._execute("measure the knowledge base", work)

    async def build_indexes(
        self, *, on_progress: Callable[[IndexProgress], None] | None = None
    ) -> list[str]:
        """Build the indexes that large domains lack and return the domains' names.

        Readers and writers go on meanwhile; 100,000 samples take about half a minute. Cancelling
        ends the build.

        Args:
            on_progress: Called from another thread a few times a second.

        Raises:
            KnowledgeBaseError: An index could not be built; searches stay exact.
        """
        mine = await EmbedderIdentity.from_embedder(self._embedder)
        if mine.dimension > MAX_INDEXED_DIMENSION:
            return []
        stop = threading.Event()
        try:
            return await asyncio.wrap_future(self._indexes.start(stop, on_progress))
        finally:
            stop.set()

    async def reembed(self, *, on_progress: Callable[[ReembedProgress], None] | None = None) -> int:
        """Give every sample of every tenant a vector of this knowledge base's embedder.

        Searches by the old embedder work until the new vectors are exchanged for the old in one
        transaction, for which searches wait. A re-embedding that was broken off is resumed by
        calling this again. The query-state cache forgets all its states.

        Args:
            on_progress: Called on the event loop after each batch; must not block.

        Returns:
            How many samples there are.

        Raises:
            EmbeddingError: The embedder failed; the old vectors are still in use.
            KnowledgeBaseError: The exchange failed; the old vectors are still in use.
        """
        mine = await EmbedderIdentity.from_embedder(self._embedder)
        return await Reembedding(self._database, self._embedder, mine).replace_vectors(on_progress)

    async def _write(self, action: str, work: Callable[[DatabaseSession], T]) -> T:
        """Change samples, and have the copy searched again only once it has the change too."""
        replica = self._replica

        def noted(session: DatabaseSession) -> T:
            done = work(session)
            if replica is not None:
                replica.note_write(session)
            return done

        return await self._execute(action, noted)

    async def _execute(self, action: str, work: Callable[[DatabaseSession], T]) -> T:
        return await self._database.execute_work(action, work, error=KnowledgeBaseError)


def _check_place(which: SampleFilter, tenant: str) -> None:
    checked_name("tenant", tenant)
    if which.domain is not None:
        checked_name("domain", which.domain)


def _domains_of(samples: Sequence[NewSample]) -> list[str]:
    """Return the different domains' names, in order, each checked once."""
    return [checked_name("domain", name) for name in sorted({s.domain for s in samples})]


def _ingest(
    session: DatabaseSession,
    *,
    mine: EmbedderIdentity,
    samples: Sequence[NewSample],
    vectors: Sequence[Vector],
    tenant: str,
) -> Ingested:
    names = _domains_of(samples)
    ids = sample_ids(samples)
    rows = dict(zip(ids, zip(samples, vectors, strict=True), strict=True))
    claim(session, mine)
    domain_ids = ensure_domains(session, names)
    touched = {"tenant": tenant, "domain_ids": sorted(domain_ids.values())}
    with session.connection.transaction():
        with session.together():
            embedder = session.execute("locked_embedder")
            session.execute("share_domains", domain_ids=touched["domain_ids"])
            session.execute("add_tenant_domains", **touched)
            session.execute("lock_tenant_domains", **touched)
            outdated = session.execute("outdated_ids", **named(samples, ids), **touched)
            stored = session.execute("stored_ids", ids=list(rows), **touched)
        for record in embedder:
            mine.check(record)
        replaced = outdated.fetchall()
        gone = {record["id"]: record["domain_id"] for record in replaced}
        _remove(session, replaced, touched)
        changed = _remove_changed(session, rows, touched)
        known = {record["id"] for record in stored} - gone.keys() - changed.keys()
        fresh = (SampleRow.from_sample(key, *rows[key]) for key in rows if key not in known)
        added = copy_rows(session, fresh, domain_ids, tenant)
        removed = Counter([*gone.values(), *changed.values()])
        with session.together():
            for domain_id in sorted({*added, *removed}):
                session.execute(
                    "count_samples",
                    tenant=tenant,
                    domain_id=domain_id,
                    added=added.get(domain_id, 0) - removed[domain_id],
                )
    taken = {record["wanted_id"] for record in replaced} | changed.keys()
    return Ingested(new=len(rows.keys() - known - taken), updated=len(taken))


def _remove(
    session: DatabaseSession, replaced: Sequence[DictRow], touched: Mapping[str, Any]
) -> None:
    """Delete samples whose external ids others get, those that are there already included."""
    if not replaced:
        return
    session.execute("delete_outdated", ids=[record["id"] for record in replaced], **touched)
    session.execute(
        "take_over_external_ids",
        ids=[record["wanted_id"] for record in replaced],
        external_ids=[record["external_id"] for record in replaced],
        **touched,
    )


def _remove_changed(
    session: DatabaseSession,
    rows: Mapping[bytes, tuple[NewSample, Vector]],
    touched: Mapping[str, Any],
) -> dict[bytes, int]:
    """Delete samples that come again with other metadata; return their domains by their ids.

    Those that got an id just now are among them, so this comes after `_remove`. The vector goes
    too: that of a passage is made of another text.
    """
    wanted = described([sample for sample, _ in rows.values()], list(rows))
    if not wanted["ids"]:
        return {}
    changed = session.rows("changed_metadata", **wanted, **touched)
    if changed:
        session.execute("delete_outdated", ids=[record["id"] for record in changed], **touched)
    return {record["id"]: record["domain_id"] for record in changed}


def _delete(session: DatabaseSession, *, domain: str, tenant: str) -> int:
    with session.connection.transaction():
        locked = session.row("lock_domain", domain=domain)
        if locked is None:
            return 0
        place = {"tenant": tenant, "domain_id": locked["id"]}
        counts = session.row("samples_of_domain", **place)
        if counts is None or counts["mine"] == 0:
            return 0
        if counts["others"] or not has_own_partition(session.connection, locked["id"]):
            session.execute("delete_samples", **place)
        else:
            _empty_partition(session, locked["id"])
        session.execute("forget_samples", **place)
        return int(counts["mine"])


def _empty_partition(session: DatabaseSession, domain_id: int) -> None:
    """Empty a partition at once, with its index: one that is filled again needs none for long."""
    names = {
        "partition": sql.Identifier(f"rttc_sample_{domain_id}"),
        "index": sql.Identifier(f"rttc_sample_{domain_id}_hnsw"),
    }
    for text in ("truncate {partition}", "drop index if exists {index}"):
        session.connection.execute(sql.SQL(text).format(**names))
