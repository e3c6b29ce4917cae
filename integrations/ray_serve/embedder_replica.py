"""What runs in a replica of the embedder, of which Ray Serve makes a deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rttc_graph.integrations.ray_serve.handle_calls import run_apart
from rttc_graph.protocols import Embedded, MeasuringEmbedder

__all__ = ("EmbedderFacts", "EmbedderReplica")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderFacts:
    """What callers know of an embedder without asking each time."""

    made_from: str
    name: str
    fingerprint: str
    dimension: int


class EmbedderReplica:
    """An embedder in a replica.

    Args:
        open_embedder: Opens it; called once.
        made_from: Digest of the settings that the deployment is made from.
    """

    def __init__(self, open_embedder: Callable[[], MeasuringEmbedder], made_from: str) -> None:
        self._embedder = open_embedder()
        self._facts = run_apart(self._described(made_from))

    async def describe(self) -> EmbedderFacts:
        """Return what callers want to know of the embedder."""
        return self._facts

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one unit vector for each text, in order."""
        return await self._embedder.embed(texts)

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return the vectors with what each leaves out."""
        return await self._embedder.embed_measured(texts)

    async def _described(self, made_from: str) -> EmbedderFacts:
        return EmbedderFacts(
            made_from=made_from,
            name=self._embedder.name,
            fingerprint=await self._embedder.fingerprint(),
            dimension=await self._embedder.dimension(),
        )
