"""Any LangChain `Embeddings` as our `Embedder`.

Questions are compared with questions, so all texts go the way of documents: an embedder that
treats queries and documents differently would put the same question in two places.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Final, Protocol, runtime_checkable

from langchain_core.embeddings import Embeddings

from rttc_graph.errors import ConfigurationError, EmbeddingError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe, is_retryable
from rttc_graph.protocols import Embedded
from rttc_graph.support.identity import clean

REMOTE_CALLS = 4
"""Calls at the same time when the vectors are computed elsewhere."""

_PROBES: Final = (
    "How do I change my password?",
    "The train to the coast leaves at noon.",
    "3 * (17 - 5) = 36",
    "Wie hoch ist der Berg?",
)

_SIMILARITY_STEP = 0.05
_SIGNS = 16


class LangChainEmbedder:
    """Embeds texts with LangChain's `Embeddings`, off the event loop and in batches.

    Args:
        embeddings: The model, or a function that makes it; the function is called in the worker
            thread at first use, so that nothing is loaded before it is needed.
        name: For people, and part of the default fingerprint.
        batch_size: Texts in one call of `embed_documents` at most.
        is_local: Whether the vectors are computed in this process: then one thread owns the model
            and the texts of concurrent callers share a call. Otherwise each caller gets calls of
            its own, four at a time.
        max_characters: Longer texts are truncated to this many characters.
        fingerprint: Digest of the weights, or a function that computes it, called in a thread.
            Without it the fingerprint is made from the vectors of a few fixed texts.
    """

    def __init__(
        self,
        embeddings: Embeddings | Callable[[], Embeddings],
        *,
        name: str,
        batch_size: int = 32,
        is_local: bool = True,
        max_characters: int = 32_768,
        fingerprint: str | Callable[[], str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {batch_size!r}")
        if max_characters < 1:
            raise ConfigurationError(f"max_characters must be at least 1, got {max_characters!r}")
        self._name = name
        self._max_characters = max_characters
        self._weights = fingerprint
        self._fingerprint: str | None = None
        self._dimension: int | None = None
        self._queue = BatchQueue(
            _Source(embeddings, name).vectors,
            name=f"rttc-embedder-{name}",
            batch_size=batch_size,
            coalesce=is_local,
            threads=1 if is_local else REMOTE_CALLS,
        )

    @property
    def name(self) -> str:
        """Name for people."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest that changes when the same text would get another vector.

        With the weights known, it is a digest of them. Otherwise it is coarse on purpose, for it
        must be the same on every machine: the similarities of four fixed texts in steps of 0.05,
        and the signs of 16 coordinates. Two machines that differ by 1e-6 in each coordinate
        (another processor, float32) disagree about once in 2000 models; at 1e-3 (another
        precision) about every second time: then give `fingerprint`.

        Raises:
            EmbeddingError: The embedder failed.
        """
        if self._fingerprint is None:
            self._fingerprint = await self._discovered_fingerprint()
        return self._fingerprint

    async def dimension(self) -> int:
        """Return the length of the vectors; embeds a short text if nothing was embedded yet.

        Raises:
            EmbeddingError: The embedder failed.
        """
        return self._dimension or len((await self.embed(_PROBES[:1]))[0])

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one unit vector for each text, in order.

        A blank text gets the vector of a single space, which hosted models accept and an empty
        string not.

        Raises:
            EmbeddingError: The embedder failed, or returned something that has no direction.
        """
        return [found.vector for found in await self.embed_measured(texts)]

    async def embed_measured(self, texts: Sequence[str]) -> list[Embedded]:
        """Return what `embed` does, with how many characters each vector says nothing of.

        Raises:
            EmbeddingError: As `embed`.
        """
        cut = [clean(text[: self._max_characters]) if text.strip() else " " for text in texts]
        found: list[Embedded] = []
        for text, (raw, unread) in zip(texts, await self._queue.submit(cut), strict=True):
            vector = _unit(raw, self._name)
            self._check_dimension(len(vector))
            behind = max(0, len(text) - self._max_characters)
            found.append(Embedded(vector=vector, unread=unread + behind))
        return found

    def _check_dimension(self, dimension: int) -> None:
        if self._dimension is None:
            self._dimension = dimension
        elif dimension != self._dimension:
            raise EmbeddingError(
                f"embedder {self._name!r} returned a vector of {dimension} numbers after vectors "
                f"of {self._dimension}: one database needs one dimension, fix it in the model"
            )

    async def _discovered_fingerprint(self) -> str:
        return _digest(self._name, self._max_characters, await self._weights_or_behaviour())

    async def _weights_or_behaviour(self) -> object:
        weights = self._weights
        if weights is None:
            return _behaviour(await self.embed(_PROBES))
        if isinstance(weights, str):
            return weights
        try:
            return await asyncio.to_thread(weights)
        except (OSError, ValueError) as exc:
            raise EmbeddingError(
                f"could not read the weights of embedder {self._name!r}: {describe(exc)}"
            ) from exc


@runtime_checkable
class _Measuring(Protocol):
    """Embeddings that know how much of a text they read."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]: ...

    def unread(self, text: str) -> int: ...


class _Source:
    """The vendor's object, made at first use; the one place where its errors are translated."""

    def __init__(self, embeddings: Embeddings | Callable[[], Embeddings], name: str) -> None:
        self._embeddings = embeddings
        self._name = name
        self._making = threading.Lock()

    def vectors(self, texts: list[str]) -> list[tuple[list[float], int]]:
        """Return each text's vector, and how many of its characters the model did not read."""
        try:
            made = self._made()
            vectors = made.embed_documents(texts)
            unread = (
                [made.unread(text) for text in texts]
                if isinstance(made, _Measuring)
                else [0] * len(texts)
            )
        except ConfigurationError:  # of the maker's, and it says what to do
            raise
        except Exception as exc:  # vendors' errors share no base class
            raise EmbeddingError(
                f"could not embed {len(texts)} texts with {self._name!r}: {describe(exc)}",
                retryable=is_retryable(exc),
            ) from exc
        if len(vectors) != len(texts):
            raise EmbeddingError(
                f"embedder {self._name!r} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        return list(zip(vectors, unread, strict=True))

    def _made(self) -> Embeddings:
        with self._making:
            if not isinstance(self._embeddings, Embeddings):
                self._embeddings = self._embeddings()
            return self._embeddings


def _unit(vector: Sequence[float], name: str) -> list[float]:
    length = math.hypot(*vector)
    if not math.isfinite(length) or length == 0:
        raise EmbeddingError(
            f"embedder {name!r} returned a vector of length {length!r}, which has no direction: "
            "check the model and its precision"
        )
    return [value / length for value in vector]


def _behaviour(vectors: Sequence[Sequence[float]]) -> object:
    """Return what of the probes' vectors survives another machine's rounding."""
    similarities = [
        round(sum(x * y for x, y in zip(a, b, strict=True)) / _SIMILARITY_STEP)
        for a, b in combinations(vectors, 2)
    ]
    per_probe = _SIGNS // len(vectors)
    signs = [value > 0 for vector in vectors for value in vector[:per_probe]]
    return [len(vectors[0]), similarities, signs]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
