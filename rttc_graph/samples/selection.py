"""Chooses samples that add to each other: SIFT (Hübotter et al., arXiv 2410.08020).

The nearest samples are often near copies of one another, and the eighth copy says little that the
first did not. Each choice here takes the sample that leaves the least uncertainty about the query,
given those chosen before. It is made among the nearest, which the knowledge base finds first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rttc_graph.settings import SamplesChoice
from rttc_graph.support.extras import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ("MOST_PRESELECTED", "NOISE", "PRESELECTED", "preselected", "sift")

NOISE = 1.0
"""Variance of the noise in what a sample says; the kernel of a sample with itself is 1. From 0.01
to 3 the right label is among the 8 samples about as often, but the less noise, the fewer of them
have it (docs/experiments.md)."""

PRESELECTED = 8
"""Nearest samples for each that is chosen: 64 for `k=8`, as was measured (docs/experiments.md)."""

MOST_PRESELECTED = 512
"""Most nearest samples to choose among, for the largest `k` of a run, 64. Time and memory grow with
the square of this."""


def preselected(choice: SamplesChoice, k: int) -> int:
    """Return of how many nearest samples `k` are chosen, at least `k`."""
    return k if choice == "nearest" else max(k, min(PRESELECTED * k, MOST_PRESELECTED))


def sift(
    query: ArrayLike, vectors: Sequence[ArrayLike], *, k: int, noise: float = NOISE
) -> list[int]:
    """Return the indices of the `k` vectors that together say most about a query.

    A Gaussian process with the cosine as its kernel S: observing x with noise λ lowers the variance
    at the query q by S[q, x]² / (S[x, x] + λ). Each step takes the x that lowers it most, the first
    of equals, and conditions S on it.

    Args:
        query: What they are to tell about.
        vectors: The candidates, n of the query's length d; their own lengths do not count.
        k: How many to choose, 1 or more.
        noise: λ, above 0. With more of it copies count for more, and the choice is nearer to the
            nearest.

    Returns:
        The indices in the order of choice, each once; all n as they come where n is at most `k`.

    Raises:
        ConfigurationError: numpy is not installed.
    """
    if len(vectors) <= k:
        return list(range(len(vectors)))
    covariance = _cosines([query, *vectors])
    chosen: list[int] = []
    for _ in range(k):
        gain = covariance[0] ** 2 / (covariance.diagonal() + noise)
        gain[[0, *chosen]] = -1.0  # the query itself, and none twice
        best = int(gain.argmax())
        chosen.append(best)
        column = covariance[:, best] / (covariance[best, best] + noise) ** 0.5
        covariance -= column[:, None] * column
    return [index - 1 for index in chosen]


def _cosines(vectors: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the cosines of all pairs of n vectors, shape (n, n); of a vector of length 0 none."""
    numpy = require("numpy", extra="postgres", purpose="choices by sift")  # late: it loads slowly
    rows = numpy.asarray(vectors, dtype=numpy.float64)
    lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
    rows /= numpy.maximum(lengths, numpy.finfo(numpy.float64).tiny)
    cosines: NDArray[np.float64] = rows @ rows.T
    return cosines
