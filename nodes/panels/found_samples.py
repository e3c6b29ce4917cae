"""Samples that a panel finds beside those of the question, and texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rttc_graph.errors import EmbeddingError
from rttc_graph.protocols import Embedder
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.state import Sample


async def vectors_of(embedder: Embedder, texts: Sequence[str]) -> list[list[float]]:
    """Return one unit vector for each text, in order.

    Raises:
        EmbeddingError: The embedder failed, or gave another number of vectors.
    """
    vectors = await embedder.embed(texts)
    if len(vectors) != len(texts):
        raise EmbeddingError(f"{embedder.name} gave {len(vectors)} vectors for {len(texts)} texts")
    return vectors


async def seen_from(
    question: Sequence[float], samples: Sequence[Sample], embedder: Embedder, *, deadline: float
) -> list[Sample]:
    """Return samples with their similarity to the run's question, as judges and sources have it.

    Where it cannot be told, a sample keeps the similarity to what it was searched with.

    Args:
        question: Unit vector of the question.
        samples: Samples that were searched with another text.
        embedder: Turns their questions into vectors.
        deadline: Reading of `time.monotonic()` at which the run's budget of seconds ends.
    """
    if not samples:
        return []
    vectors = await survive(
        vectors_of(embedder, [sample["question"] for sample in samples]), deadline=deadline
    )
    if isinstance(vectors, Failure):
        return list(samples)
    return [
        cast("Sample", {**sample, "similarity": cosine(question, vector)})
        for sample, vector in zip(samples, vectors, strict=True)
    ]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine similarity of two unit vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True))
