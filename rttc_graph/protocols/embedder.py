"""The seam to the model that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class MeasuringEmbedder(Embedder, Protocol):
    """An embedder that tells where a text was too long for it."""

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return what `embed` does, with what each vector leaves out.

        Raises:
            EmbeddingError: The embedder failed.
        """
        ...
