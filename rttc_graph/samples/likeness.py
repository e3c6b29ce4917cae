"""Samples that ask nearly the same: copies of each other, or answers that contradict each other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import (
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)
from rttc_graph.samples.export import sample_pages
from rttc_graph.support.extras import require
from rttc_graph.support.passages import is_passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ("MOST_COMPARED", "NEARLY_THE_SAME", "LikenessReport", "SamplePair", "compare_samples")

NEARLY_THE_SAME = 0.95
"""Cosine similarity from which on two questions are nearly the same. Of 1,200 rows of banking77,
which share an instruction, 71 pairs with different labels reach it, and 1,576 reach 0.9."""

MOST_COMPARED = 50_000
"""Samples of a domain that are compared: every pair is, and 50,000 take minutes on two cores."""

MOST_PAIRS = 1000
"""Pairs that are kept; the rest is only counted."""

_BLOCK_ROWS = 1024
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePair:
    """Two samples of one domain whose questions are nearly the same."""

    first: StoredSample
    second: StoredSample
    similarity: float
    """Cosine of the questions' vectors."""


@dataclass(slots=True, kw_only=True)
class LikenessReport:
    """Pairs of a domain's solved questions that are nearly the same."""

    domain: str
    samples: int
    copies: int = 0
    """Pairs with the same answer."""
    contradictions: int = 0
    """Pairs with another answer."""
    pairs: list[SamplePair] = field(default_factory=list[SamplePair])
    """The contradictions, up to `MOST_PAIRS`."""


async def compare_samples(
    knowledge_base: ManagedKnowledgeBase,
    *,
    domain: str,
    tenant: str,
    similarity: float = NEARLY_THE_SAME,
) -> LikenessReport:
    """Compare all solved questions of a domain with each other, by their stored vectors.

    Questions with different numbers in them are not the same, however near: a puzzle in other
    numbers has another answer. Passages of documents are left out.

    Args:
        knowledge_base: Where the samples are.
        domain: Domain of the samples.
        tenant: Tenant of the samples.
        similarity: Lowest cosine of two questions that are nearly the same, 0 to 1.

    Raises:
        ConfigurationError: The domain has more than `MOST_COMPARED` samples, or `similarity` is out
            of range.
        KnowledgeBaseError: The samples cannot be read.
    """
    if not 0 <= similarity <= 1:
        raise ConfigurationError(f"similarity={similarity!r} must be 0 to 1")
    which = SampleFilter(domain=domain)
    count = (await knowledge_base.count_samples(which, tenant=tenant)).get(domain, 0)
    if count > MOST_COMPARED:
        raise ConfigurationError(
            f"domain {domain!r} has {count:,} samples, at most {MOST_COMPARED:,} are compared: "
            "check a smaller domain"
        )
    samples: list[StoredSample] = []
    async for page in sample_pages(knowledge_base, which, tenant=tenant, with_vectors=True):
        samples += [one for one in page if not is_passage(one.metadata)]
    return await asyncio.to_thread(_compared, samples, domain, similarity)


def _compared(samples: Sequence[StoredSample], domain: str, similarity: float) -> LikenessReport:
    report = LikenessReport(domain=domain, samples=len(samples))
    numbers = [_NUMBER.findall(one.question) for one in samples]
    for first, second, cosine in _near_pairs(samples, similarity):
        if numbers[first] != numbers[second]:
            continue
        one, other = samples[first], samples[second]
        if _plain(one.answer) == _plain(other.answer):
            report.copies += 1
            continue
        report.contradictions += 1
        if len(report.pairs) < MOST_PAIRS:
            report.pairs.append(SamplePair(first=one, second=other, similarity=cosine))
    report.pairs.sort(key=lambda pair: -pair.similarity)
    return report


def _near_pairs(
    samples: Sequence[StoredSample], similarity: float
) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of samples that are near enough, a block of rows in memory at a time."""
    numpy: Any = require("numpy", extra="postgres", purpose="comparisons of samples")
    vectors: NDArray[np.float32] = numpy.array([one.vector for one in samples], dtype="float32")
    for begin in range(0, len(samples), _BLOCK_ROWS):
        block = vectors[begin : begin + _BLOCK_ROWS] @ vectors[begin:].T
        # Half precision leaves a copy at 0.9999 or 1.0001.
        for row, column in numpy.argwhere(numpy.triu(block >= similarity - 1e-3, 1)).tolist():
            yield begin + row, begin + column, min(1.0, float(block[row, column]))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?")
