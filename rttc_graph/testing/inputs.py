"""What the contract suites fill their backends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rttc_graph.arms import PLAIN
from rttc_graph.protocols import KnowledgeBase, NewSample, RewardRequest, TrainedAdapter
from rttc_graph.state import Sample

__all__ = (
    "BAD_NAMES",
    "ODD_NAMES",
    "TENANT",
    "at_angle",
    "candidate",
    "fill",
    "new_sample",
    "questions",
    "recalled_sample",
    "trained_adapter",
)

TENANT = "tenant"
"""Tenant of these samples."""


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
    assert (await knowledge_base.ingest(samples, vectors, tenant=tenant)).new == count


def questions(samples: Sequence[Sample]) -> list[int]:
    """Return the numbers of samples made by `new_sample`."""
    return [int(sample["question"].split()[1]) for sample in samples]


ODD_NAMES = {
    "sql": "'); drop table rttc_sample; --",
    "placeholders": '"quoted" %s %(k)s {domain} \\',
    "unicode-and-control-characters": "数学 🧮 naïve\t\n",
    "longest": "d" * 200,
    "longest-in-bytes": "🧮" * 200,
}
BAD_NAMES = {
    "empty": "",
    "too-long": "d" * 201,
    "far-too-long": "d" * 1000,
    "nul": "a\0b",
    "half-a-surrogate-pair": "a\ud800b",
}


def candidate(answer: str, *, mean_logprob: float | None = -0.5) -> RewardRequest:
    """Return an answer of the plain model that no reward model has judged."""
    return {
        "arm": PLAIN,
        "answer": answer,
        "reward": None,
        "seconds": 0.1,
        "prompt_tokens": 10,
        "completion_tokens": len(answer.split()),
        "trained_tokens": 0,
        "mean_logprob": mean_logprob,
        "finish_reason": "stop",
        "adapter": None,
    }


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
