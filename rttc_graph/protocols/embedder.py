"""The seam to the model that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Vector = Sequence[float]
"""Numbers of a unit vector."""


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """Name for people."""
        ...

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same text would get another vector."""
        ...

    async def dimension(self) -> int:
        """Return the length of the vectors."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one unit vector for each text, in order.

        Raises:
            EmbeddingError: The embedder failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A text's vector and what it leaves out."""

    vector: list[float]
    """Vector of unit length."""
    unread: int
    """Number of characters that the vector leaves out because the text is too long."""


@runtime_checkable
class MeasuringEmbedder(Embedder, Protocol):
    """An embedder that tells where a text was too long for it."""

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return what `embed` does, with what each vector leaves out.

        Raises:
            EmbeddingError: The embedder failed.
        """
        ...


def as_measuring_embedder(embedder: Embedder) -> MeasuringEmbedder:
    """Return an embedder that measures; one that does not is taken to read every text whole.

    This is the only place that asks whether an embedder has `embed_measured`.
    """
    return embedder if isinstance(embedder, MeasuringEmbedder) else _ReadsAll(embedder)


@dataclass(frozen=True, slots=True)
class _ReadsAll:
    """An embedder that says nothing of what it leaves out."""

    _embedder: Embedder

    @property
    def name(self) -> str:
        return self._embedder.name

    async def fingerprint(self) -> str:
        return await self._embedder.fingerprint()

    async def dimension(self) -> int:
        return await self._embedder.dimension()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._embedder.embed(texts)

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        vectors = await self._embedder.embed(texts)
        return [Embedded(vector=vector, unread=0) for vector in vectors]
