"""Samples with vectors that cost no embedding: clusters of topics, as texts of a domain have them.

A vector is a topic's centre plus noise, both with a falling spectrum, at unit length. Rows are made
in blocks from the seed and the block's number, so row n is the same whatever is made before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rttc_graph.protocols import NewSample

DIMENSION = 384
"""Of all-MiniLM-L6-v2."""

DOMAIN = "synthetic"

_BLOCK = 10_000
_TOPICS = 2_000
_WORDS = ("account", "balance", "card", "transfer", "limit", "payment", "refund", "branch", "loan")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Samples with their vectors, float32 [N, dimension]."""

    samples: list[NewSample]
    vectors: np.ndarray[Any, Any]

    @property
    def lists(self) -> list[list[float]]:
        """The vectors as an embedder returns them."""
        return cast("list[list[float]]", self.vectors.tolist())


def blocks(start: int, stop: int, *, dimension: int = DIMENSION) -> Iterator[Rows]:
    """Yield the rows from `start` to `stop`, some thousand at a time."""
    while start < stop:
        number, first = divmod(start, _BLOCK)
        last = min(_BLOCK, first + stop - start)
        vectors = _vectors(number, _BLOCK, dimension)[first:last]
        names = range(number * _BLOCK + first, number * _BLOCK + last)
        yield Rows([_sample(name) for name in names], vectors)
        start += last - first


def queries(count: int, *, dimension: int = DIMENSION, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return vectors of the same topics that belong to no row, float32 [N, dimension]."""
    return _vectors(2**31 + seed, count, dimension)


def nearest(rows: Iterator[Rows], asked: np.ndarray[Any, Any], k: int) -> list[set[int]]:
    """Return the numbers of each query's `k` nearest rows by cosine, all rows compared."""
    best = np.full((len(asked), k), -np.inf, dtype=np.float32)
    who = np.zeros((len(asked), k), dtype=np.int64)
    offset = 0
    for block in rows:
        similarity = asked @ block.vectors.T
        numbers = np.broadcast_to(np.arange(offset, offset + len(block.samples)), similarity.shape)
        offset += len(block.samples)
        every, names = np.hstack([best, similarity]), np.hstack([who, numbers])
        order = np.argsort(-every, axis=1)[:, :k]
        best, who = np.take_along_axis(every, order, 1), np.take_along_axis(names, order, 1)
    return [set(map(int, row)) for row in who]


def recall(found: Sequence[Sequence[int]], right: Sequence[set[int]]) -> float:
    """Return the share of the right neighbours that were found."""
    hits = sum(len(set(mine) & theirs) for mine, theirs in zip(found, right, strict=True))
    return hits / sum(len(theirs) for theirs in right)


def number_of(text: str) -> int:
    """Return the number of the row whose question or id this is."""
    return int(text.rpartition(" ")[2].removeprefix("#"))


def _sample(number: int) -> NewSample:
    words = " ".join(_WORDS[(number * step) % len(_WORDS)] for step in (1, 3, 5, 7, 11))
    return NewSample(
        question=f"How do I ask about {words}, please? I have tried twice #{number}",
        answer=f"{words} {number % 77}",
        domain=DOMAIN,
        metadata={"topic": number % _TOPICS},
    )


def _vectors(seed: int, count: int, dimension: int) -> np.ndarray[Any, Any]:
    spectrum = 1 / np.sqrt(1 + np.arange(dimension, dtype=np.float32))
    centres = np.random.default_rng(0).standard_normal((_TOPICS, dimension), dtype=np.float32)
    random = np.random.default_rng([1, seed])
    topics = random.integers(0, _TOPICS, count)
    noise = random.standard_normal((count, dimension), dtype=np.float32)
    found = (centres[topics] + noise) * spectrum
    unit: np.ndarray[Any, Any] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit
