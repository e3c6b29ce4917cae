"""What the contract suites fill their backends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from rttc_graph.protocols import KnowledgeBase, NewSample, TrainedAdapter
from rttc_graph.state import Sample

__all__ = (
    "BAD_NAMES",
    "ODD_NAMES",
    "TENANT",
    "at_angle",
    "fill",
    "new_sample",
    "questions",
    "recalled_sample",
    "trained_adapter",
)

TENANT = "tenant"
"""Whose samples they are."""


def at_angle(degrees: float) -> list[float]:
    """Return the unit vector at an angle; the cosine of two is that of the angle between them."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0]


def new_sample(number: int, domain: str = "math", **more: Any) -> NewSample:
    """Return a sample that differs from those of other numbers."""
    return NewSample(
        question=f"question {number}", answer=f"answer {number}", domain=domain, **more
    )


def trained_adapter(key: str = "key", *, base: str = "base", size: int = 1000) -> TrainedAdapter:
    """Return an adapter of `size` bytes that no model can load."""
    return TrainedAdapter(
        key=key,
        weights=bytes(i % 256 for i in range(size)),
        base_fingerprint=base,
        trained_tokens=7,
        steps=2,
        losses=(1.5, 0.5),
        seconds=0.25,
        provenance={"samples": ["a", "b"], "seed": 0},
    )


async def fill(
    knowledge_base: KnowledgeBase,
    count: int,
    *,
    domain: str = "math",
    tenant: str = TENANT,
    first: int = 0,
) -> None:
    """Store samples `first`, `first + 1`, …, each at the angle of its number."""
    numbers = range(first, first + count)
    samples = [new_sample(number, domain) for number in numbers]
    vectors = [at_angle(number) for number in numbers]
    assert await knowledge_base.ingest(samples, vectors, tenant=tenant) == count


def questions(samples: Sequence[Sample]) -> list[int]:
    """Return the numbers of samples made by `new_sample`."""
    return [int(sample["question"].split()[1]) for sample in samples]


ODD_NAMES = [
    pytest.param("'); drop table rttc_sample; --", id="sql"),
    pytest.param('"quoted" %s %(k)s {domain} \\', id="placeholders"),
    pytest.param("数学 🧮 naïve\t\n", id="unicode-and-control-characters"),
    pytest.param("d" * 200, id="longest"),
    pytest.param("🧮" * 200, id="longest-in-bytes"),
]
BAD_NAMES = [
    pytest.param("", id="empty"),
    pytest.param("d" * 201, id="too-long"),
    pytest.param("d" * 1000, id="far-too-long"),
    pytest.param("a\0b", id="nul"),
    pytest.param("a\ud800b", id="half-a-surrogate-pair"),
]


def recalled_sample(number: int) -> Sample:
    """Return a sample as a search returns it."""
    return {
        "id": f"{number:064x}",
        "question": f"question {number}",
        "answer": f"answer {number}",
        "domain": "math",
        "similarity": 0.75,
        "metadata": {"level": number},
    }
