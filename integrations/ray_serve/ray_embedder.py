"""The embedder of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.integrations.ray_serve.embedder_replica import EmbedderFacts
from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls
from rttc_graph.protocols import Embedded

__all__ = ("RayEmbedder",)

_AT_ONCE = 256
"""Texts in one call, so that a large file goes to several replicas and no call takes too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEmbedder:
    """Implements `MeasuringEmbedder` by the handle of its replicas."""

    calls: HandleCalls
    facts: EmbedderFacts

    @property
    def name(self) -> str:
        """The embedder's name."""
        return self.facts.name

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same text would get another vector."""
        return self.facts.fingerprint

    async def dimension(self) -> int:
        """Return the length of the vectors."""
        return self.facts.dimension

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one unit vector for each text, in order.

        Raises:
            EmbeddingError: The embedder failed, or no replica answers.
        """
        found: list[list[float]] = []
        for part in _parts(texts):
            found += await self.calls.call("embed", part)
        return found

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return what `embed` does, with what each vector leaves out.

        Raises:
            EmbeddingError: The embedder failed, or no replica answers.
        """
        found: list[Embedded] = []
        for part in _parts(texts):
            found += await self.calls.call("embed_measured", part)
        return found


def _parts(texts: Sequence[str]) -> list[list[str]]:
    return [list(texts[first : first + _AT_ONCE]) for first in range(0, len(texts), _AT_ONCE)]
