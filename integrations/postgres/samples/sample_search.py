"""Chooses between HNSW and exact search, so that a filter never costs rows.

HNSW finds neighbours first and filters then: in the measurements a filter of 1 % returned 0.4 of 8
rows, and even an iterative scan gave 6.5 of 8 where the filter excluded the whole neighbourhood. So
few rows are searched exactly (1.5 ms for 1,000), and so is everything where HNSW came back short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pgvector import HalfVector
from psycopg import Cursor
from psycopg.rows import DictRow

from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.psycopg_errors import DRIVER_ERRORS, LOST
from rttc_graph.integrations.postgres.samples.embedder_record import EmbedderIdentity
from rttc_graph.protocols import SearchResult
from rttc_graph.samples.selection import preselected, sift
from rttc_graph.settings import SamplesChoice
from rttc_graph.state import Sample

__all__ = ("INDEX_ROWS", "SampleQuery", "SampleSearch", "SearchScope", "search")

INDEX_ROWS = 5000
"""Rows of a partition from which on it has an index; below, an exact search takes some 5 ms."""

_FILTERED_FACTOR = 2
"""Factor on the index threshold for a tenant in a shared partition: up to it the tenant's rows are
searched exactly, since an index scan that discards most rows is no faster."""

_MAX_SEEN = 10_000
"""Tenants' domains whose last scope is remembered."""

_EF_SEARCH = 100
"""Recall@8 of 0.965 to 0.99 at `_EF_ROWS` rows, for 3 ms.

A million rows need 150 to 200 for as much, so each tenfold adds as much again (docs/experiments.md,
"Indexes of vectors").
"""

_EF_ROWS = 100_000
_MOST_EF = 1000
"""pgvector takes no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScope:
    """Partitions and row counts that a search covers."""

    domain_ids: list[int]
    revision: int
    samples: int
    """Samples of the tenant."""
    partition_samples: int
    """Samples of all tenants in the same partitions."""
    wants_index: bool
    """Whether a partition is large and has no index."""
    index_rows: int
    """Rows from which on a partition is large."""

    @classmethod
    def from_rows(cls, rows: Sequence[DictRow], index_rows: int) -> SearchScope:
        """Sum up the rows of `search_scope`."""
        return cls(
            domain_ids=sorted(row["domain_id"] for row in rows if row["samples"]),
            revision=sum(row["revision"] for row in rows),
            samples=sum(row["samples"] for row in rows),
            partition_samples=sum(row["partition_samples"] for row in rows),
            wants_index=any(
                row["partition_samples"] >= index_rows and not row["has_index"] for row in rows
            ),
            index_rows=index_rows,
        )

    def is_searched_like(self, other: SearchScope) -> bool:
        """Whether a search of either is a search of both."""
        return self.domain_ids == other.domain_ids and self.is_exact == other.is_exact

    @property
    def is_exact(self) -> bool:
        """Whether to leave the index aside."""
        is_filtered = self.samples * 2 < self.partition_samples
        return self.samples < self.index_rows * (_FILTERED_FACTOR if is_filtered else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleQuery:
    """Vector, number and filters of a search for samples."""

    vector: HalfVector
    k: int
    domain: str | None
    tenant: str
    choice: SamplesChoice = "nearest"

    @property
    def candidates(self) -> int:
        """Nearest samples of which `k` are chosen."""
        return preselected(self.choice, self.k)

    def send(self, session: DatabaseSession, scope: SearchScope) -> Cursor[DictRow]:
        """Run the search that fits the scope; the settings hold until the transaction ends."""
        if scope.is_exact:
            return self.send_exact(session, scope)
        width = min(_MOST_EF, max(_search_width(scope.partition_samples), 2 * self.candidates))
        session.execute("search_settings", ef_search=str(width))
        return session.execute("search_hnsw", **self._parameters(scope))

    def send_exact(self, session: DatabaseSession, scope: SearchScope) -> Cursor[DictRow]:
        """Run a search that leaves the index aside."""
        return session.execute("search_exact", **self._parameters(scope))

    def chosen(self, rows: Sequence[DictRow]) -> Sequence[DictRow]:
        """Return those of the candidates, nearest first, that were asked for, in the same order."""
        if self.choice == "nearest":
            return rows
        vectors = [row["embedding"].to_numpy() for row in rows]  # a hundredth of to_list's time
        return [rows[index] for index in sorted(sift(self.vector.to_numpy(), vectors, k=self.k))]

    def _parameters(self, scope: SearchScope) -> dict[str, object]:
        return {
            "domain_ids": scope.domain_ids,
            "tenant": self.tenant,
            "vector": self.vector,
            "k": self.candidates,
            "with_embeddings": self.choice != "nearest",
        }


class SampleSearch:
    """Searches what an earlier search found to be there, and asks for it in the same round trip.

    One round trip instead of six: on a busy machine each costs as much as the search. What was
    found counts only if the database still has the same embedder and the same partitions.

    Args:
        index_rows: Rows of a partition from which on it has an index.
    """

    def __init__(self, index_rows: int) -> None:
        self._index_rows = index_rows
        self._seen: dict[tuple[str, str | None], SearchScope] = {}

    def find(
        self, session: DatabaseSession, query: SampleQuery, mine: EmbedderIdentity
    ) -> tuple[SearchResult, SearchScope]:
        """Return the chosen samples, and what the search went through.

        Raises:
            KnowledgeBaseError: The database holds vectors of another embedder.
        """
        place = (query.tenant, query.domain)
        before = self._seen.get(place)
        rows: Sequence[DictRow] = []
        try:
            with session.together():
                embedder = session.execute("embedder")
                domains = session.execute("search_scope", tenant=query.tenant, domain=query.domain)
                guess_cursor = query.send(session, before) if before else None
            rows = guess_cursor.fetchall() if guess_cursor else []
        except DRIVER_ERRORS as exc:
            if before is None or isinstance(exc, LOST):
                raise
            self._seen.pop(place, None)  # the vectors are others now, so look before searching
            session.connection.rollback()
            return self.find(session, query, mine)
        stored = embedder.fetchone()
        if stored is not None:
            mine.check(stored)
        scope = SearchScope.from_rows(domains.fetchall(), self._index_rows)
        self._remember(place, scope)
        guess = rows if before is not None and before.is_searched_like(scope) else None
        return search(session, scope, query, guess), scope

    def _remember(self, place: tuple[str, str | None], scope: SearchScope) -> None:
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        if scope.samples:
            self._seen[place] = scope
        else:
            self._seen.pop(place, None)


def search(
    session: DatabaseSession,
    scope: SearchScope,
    query: SampleQuery,
    rows: Sequence[DictRow] | None = None,
) -> SearchResult:
    """Return the chosen samples of a scope: `k`, or all if there are fewer.

    Args:
        session: At work.
        scope: What to go through.
        query: What to look for.
        rows: What was found in this scope already.
    """
    wanted = min(query.candidates, scope.samples)
    if rows is None and wanted:
        with session.together():
            cursor = query.send(session, scope)
        rows = cursor.fetchall()
    if len(rows or ()) < wanted and not scope.is_exact:
        rows = query.send_exact(session, scope).fetchall()
    chosen = query.chosen(rows or ())
    return SearchResult(samples=[_sample(row) for row in chosen], revision=scope.revision)


def _sample(row: DictRow) -> Sample:
    sample: Sample = {
        "id": row["id"].hex(),
        "question": row["question"],
        "answer": row["answer"],
        "domain": row["domain"],
        "similarity": min(1.0, max(-1.0, 1.0 - row["distance"])),
    }
    if row["metadata"]:
        sample["metadata"] = row["metadata"]
    return sample


def _search_width(rows: int) -> int:
    """Return `hnsw.ef_search` for so many rows of the searched partitions."""
    return round(_EF_SEARCH * (1 + max(0.0, math.log10(max(rows, 1) / _EF_ROWS))))
