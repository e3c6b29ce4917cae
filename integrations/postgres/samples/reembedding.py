"""Exchanges all vectors of a knowledge base for those of another embedder.

The new vectors are collected beside the old, batch by batch, so that a broken-off run is resumed;
then they are exchanged in one transaction, and no search ever sees both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pgvector import HalfVector
from psycopg import sql
from psycopg.rows import DictRow

from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.samples.embedder_record import EmbedderIdentity, store_inline
from rttc_graph.protocols import Embedder
from rttc_graph.support.passages import embedded_text

__all__ = ("ReembedProgress", "Reembedding")

T = TypeVar("T")

_BATCH_ROWS = 256
_BEFORE_ALL: Mapping[str, Any] = {"domain_id": 0, "tenant": "", "id": b""}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReembedProgress:
    """Progress of a re-embedding."""

    done: int
    """Samples embedded by this call."""
    total: int
    """Samples of the knowledge base when the call began."""


class Reembedding:
    """One re-embedding.

    Args:
        database: Where the samples are.
        embedder: Makes the new vectors.
        mine: What the database will record of it.
    """

    def __init__(self, database: Database, embedder: Embedder, mine: EmbedderIdentity) -> None:
        self._database = database
        self._embedder = embedder
        self._mine = mine

    async def replace_vectors(self, on_progress: Callable[[ReembedProgress], None] | None) -> int:
        """Embed everything, exchange the vectors and return the number of samples."""
        total = await self._execute(self._begin)
        if total is None:
            return (await self._execute(_count)) or 0
        done = 0
        while True:
            done += await self._collect(done, total, on_progress)
            if await self._execute(self._exchange):
                return (await self._execute(_count)) or 0

    def _begin(self, session: DatabaseSession) -> int | None:
        """Return the number of samples, or `None` if there is nothing to do."""
        stored = session.row("embedder")
        if stored is None or stored["fingerprint"] == self._mine.fingerprint:
            return None
        session.execute("forget_other_reembedding", fingerprint=self._mine.fingerprint)
        return _count(session)

    async def _collect(
        self, before: int, total: int, on_progress: Callable[[ReembedProgress], None] | None
    ) -> int:
        """Embed what has no new vector yet, and return how many that were."""
        last, done = _BEFORE_ALL, 0
        while rows := await self._execute(_next_rows(last)):
            texts = [embedded_text(r["question"], r["answer"], r["metadata"]) for r in rows]
            vectors = await self._embedder.embed(texts)
            await self._execute(self._added(rows, vectors))
            last, done = rows[-1], done + len(rows)
            if on_progress is not None:
                on_progress(ReembedProgress(done=before + done, total=total))
        return done

    def _added(
        self, rows: Sequence[DictRow], vectors: Sequence[Sequence[float]]
    ) -> Callable[[DatabaseSession], None]:
        new_columns = {
            "fingerprint": self._mine.fingerprint,
            "domain_ids": [row["domain_id"] for row in rows],
            "tenants": [row["tenant"] for row in rows],
            "ids": [row["id"] for row in rows],
            "embeddings": [HalfVector(list(vector)) for vector in vectors],
        }
        return lambda session: session.execute("add_reembedded", **new_columns).close()

    def _exchange(self, session: DatabaseSession) -> bool:
        """Exchange all vectors, unless samples came that have no new one yet."""
        with session.connection.transaction():
            session.connection.execute("set local statement_timeout = 0")
            session.execute("lock_samples")
            left = session.row("count_not_reembedded")
            if left is not None and left["samples"]:
                return False
            for index in session.rows("sample_indexes"):
                drop = sql.SQL("drop index {}").format(sql.Identifier(index["name"]))
                session.connection.execute(drop)
            self._change_column(session)
            session.execute("replace_embedder", **asdict(self._mine))
            session.execute("raise_all_revisions")
            session.execute("forget_all_states")
            session.execute("empty_reembedding")
        return True

    def _change_column(self, session: DatabaseSession) -> None:
        length = sql.Literal(self._mine.dimension)
        for text in (
            "alter table rttc_sample drop column embedding",
            "alter table rttc_sample add column embedding halfvec({length})",
        ):
            session.connection.execute(sql.SQL(text).format(length=length))
        store_inline(session, self._mine)
        session.execute("put_reembedded")
        session.connection.execute("alter table rttc_sample alter column embedding set not null")

    async def _execute(self, work: Callable[[DatabaseSession], T]) -> T:
        return await self._database.execute_work(
            "embed the knowledge base again", work, error=KnowledgeBaseError
        )


def _count(session: DatabaseSession) -> int:
    row = session.row("count_all_samples")
    return row["samples"] if row else 0


def _next_rows(last: Mapping[str, Any]) -> Callable[[DatabaseSession], Sequence[DictRow]]:
    place = {name: last[name] for name in _BEFORE_ALL}
    return lambda session: session.rows("samples_to_reembed", count=_BATCH_ROWS, **place)
