"""The embedder that a database's vectors are of, known by its record alone.

A server that only searches and stores gets its vectors from clients: it compares embedders. So no
model is loaded for a database that knows its embedder until somebody searches by a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.embedder_record import EmbedderIdentity
from rttc_graph.protocols import Embedder

__all__ = ("StoredEmbedder",)


class StoredEmbedder:
    """An `Embedder` with the identity that the database has on record.

    The record is read each time: another process may have embedded all samples anew.

    Args:
        database: Where the record is; it stays its caller's to close.
        configured: Embedder that counts while the database is empty.
    """

    def __init__(self, database: Database, configured: Embedder) -> None:
        self._database = database
        self._configured = configured
        self._name = configured.name

    @property
    def name(self) -> str:
        """Name for people, as of the last look at the record."""
        return self._name

    async def fingerprint(self) -> str:
        """Return the fingerprint on record."""
        record = await self._record()
        return await self._configured.fingerprint() if record is None else record["fingerprint"]

    async def dimension(self) -> int:
        """Return the dimension on record."""
        record = await self._record()
        return await self._configured.dimension() if record is None else record["dimension"]

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed with the configured embedder.

        Raises:
            KnowledgeBaseError: The database holds vectors of another one.
        """
        record = await self._record()
        if record is not None:
            (await EmbedderIdentity.from_embedder(self._configured)).check(record)
        return await self._configured.embed(texts)

    async def _record(self) -> Mapping[str, Any] | None:
        record = await self._database.execute_work(
            "read the embedder's record", lambda s: s.row("embedder"), error=KnowledgeBaseError
        )
        self._name = self._configured.name if record is None else record["name"]
        return record
