"""The one embedder whose vectors a database holds: written at the first ingest, then compared.

The record is read with every search, so that a re-embedding by another process is noticed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from rttc_graph.errors import ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.protocols import Embedder, Vector

__all__ = ("MAX_INDEXED_DIMENSION", "EmbedderIdentity", "claim", "store_inline")

MAX_INDEXED_DIMENSION = 4000
"""Longest `halfvec` that pgvector builds an HNSW index for."""

_MAX_DIMENSION = 16_000
"""Longest `halfvec` that pgvector stores."""

_MAX_INLINE_DIMENSION = 3000
"""6 kB, which leaves a row of 8 kB room for keys and for texts that were moved out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderIdentity:
    """Identity of an embedder.

    Vectors of two embedders are comparable if name, fingerprint and dimension are equal.
    """

    name: str
    fingerprint: str
    dimension: int

    @classmethod
    async def from_embedder(cls, embedder: Embedder) -> EmbedderIdentity:
        """Ask an embedder, which may have to be loaded for it.

        Raises:
            ConfigurationError: Its vectors are too long.
        """
        dimension = await embedder.dimension()
        if not 1 <= dimension <= _MAX_DIMENSION:
            raise ConfigurationError(
                f"vectors of {embedder.name!r} have dimension {dimension!r}, 1 to "
                f"{_MAX_DIMENSION} can be stored; choose another embedder"
            )
        return cls(
            name=embedder.name, fingerprint=await embedder.fingerprint(), dimension=dimension
        )

    def check(self, stored: Mapping[str, Any]) -> None:
        """Compare with the database's record.

        Raises:
            KnowledgeBaseError: It holds vectors of another embedder.
        """
        if stored["fingerprint"] != self.fingerprint:
            raise KnowledgeBaseError(
                f"the knowledge base holds vectors of {stored['name']!r} (dimension "
                f"{stored['dimension']}, fingerprint {stored['fingerprint']!r}), not of "
                f"{self.name!r} (dimension {self.dimension}, fingerprint {self.fingerprint!r}); "
                "use that embedder, or run `rttc kb reembed` to embed all samples again"
            )

    def check_vector(self, vector: Vector) -> None:
        """Compare the length of a vector.

        Raises:
            KnowledgeBaseError: It is another one.
        """
        if len(vector) != self.dimension:
            raise KnowledgeBaseError(
                f"a vector has dimension {len(vector)}, those of {self.name!r} have "
                f"{self.dimension}"
            )


def claim(session: DatabaseSession, mine: EmbedderIdentity) -> None:
    """Make sure that the database is this embedder's, whose it becomes if it was nobody's.

    Raises:
        KnowledgeBaseError: It holds vectors of another embedder.
    """
    stored = session.row("embedder")
    if stored is None:
        with session.connection.transaction():
            claimed = session.row(
                "claim_embedder",
                name=mine.name,
                fingerprint=mine.fingerprint,
                dimension=mine.dimension,
            )
            if claimed:
                kind = sql.SQL("alter table rttc_sample alter column embedding type halfvec({})")
                session.connection.execute(kind.format(sql.Literal(mine.dimension)))
                store_inline(session, mine)
                return
        stored = session.row("embedder")
    if stored is not None:
        mine.check(stored)


def store_inline(session: DatabaseSession, mine: EmbedderIdentity) -> None:
    """Keep vectors in their rows: out of line an exact search took 143 ms instead of 23 ms."""
    storage = sql.SQL("alter table rttc_sample alter column embedding set storage {}")
    fits = mine.dimension <= _MAX_INLINE_DIMENSION
    session.connection.execute(storage.format(sql.SQL("plain" if fits else "external")))
