"""Records of finished questions to the figures of each policy; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from typing_extensions import TypedDict

from rttc_graph.evaluation.intervals import wilson_interval
from rttc_graph.evaluation.records import Record


class PolicySummary(TypedDict):
    """Figures of one policy; tokens and seconds are means per question."""

    accuracy: float
    interval: list[float]
    """Low and high end of the 95 % Wilson score interval of the accuracy."""
    seconds_mean: float
    prompt_tokens: float
    completion_tokens: float
    trained_tokens: float
    arms: dict[str, int]
    """Questions by the arm whose answer was returned; failed ones are not among them."""
    arms_run: dict[str, int]
    """Candidates by arm, whether returned or not: what the policy paid for."""
    failed: int


class EvaluationResult(TypedDict):
    """What an evaluation found."""

    rows: int
    policies: dict[str, PolicySummary]


def summarise(records: Sequence[Record], policies: Iterable[str]) -> EvaluationResult:
    """Return the figures of each policy over its records.

    Args:
        records: The same rows for each policy.
        policies: In the order wanted; one without records is left out.
    """
    by_policy = {name: [r for r in records if r["policy"] == name] for name in policies}
    return {
        "rows": len({record["row"] for record in records}),
        "policies": {name: _summary(rows) for name, rows in by_policy.items() if rows},
    }


def _summary(records: Sequence[Record]) -> PolicySummary:
    right = sum(record["right"] for record in records)
    candidates = [candidate for record in records for candidate in record["candidates"]]
    questions = len(records)
    return {
        "accuracy": right / questions,
        "interval": list(wilson_interval(right, questions)),
        "seconds_mean": fmean(record["seconds"] for record in records),
        "prompt_tokens": sum(c["prompt_tokens"] for c in candidates) / questions,
        "completion_tokens": sum(c["completion_tokens"] for c in candidates) / questions,
        "trained_tokens": sum(c["trained_tokens"] for c in candidates) / questions,
        "arms": dict(Counter(r["arm"] for r in records if r["arm"] is not None)),
        "arms_run": dict(Counter(c["arm"] for c in candidates)),
        "failed": sum("error" in record for record in records),
    }
