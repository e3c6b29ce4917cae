"""Any reward model against judged candidates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS
from rttc_graph.protocols import RewardModel, RewardRequest, reward_requests
from rttc_graph.reward_training.candidate_rows import (
    CandidateRow,
    evidence_of_row,
    graph_candidate,
)
from rttc_graph.reward_training.reward_metrics import RewardMetrics, reward_metrics
from rttc_graph.support.progress import Advance, show_nothing


class Measured(TypedDict):
    """Metrics of a reward model on a file of candidates."""

    reward_model: str
    ms_per_pair: float
    """Wall time, loading left out."""
    answered: RewardMetrics
    """Answers of the policy model: what it will meet in use."""
    everything: RewardMetrics
    """These and the answers taken from samples."""
    domains: dict[str, RewardMetrics]
    """Metrics by domain: over the policy model's answers, or over all answers if it gave none."""


async def measure(
    reward_model: RewardModel,
    rows: Sequence[CandidateRow],
    on_progress: Advance = show_nothing,
) -> Measured:
    """Score every candidate, question by question as the graph does, and return the figures.

    Raises:
        RewardModelError: The reward model failed.
    """
    groups: dict[str, list[CandidateRow]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    first = next(iter(groups.values()))
    await reward_model.score(first[0]["question"], _requests(first[:1]))  # loads it
    scores: dict[str, float] = {}
    began = time.monotonic()
    for done, group in enumerate(groups.values(), start=1):
        rewards = await reward_model.score(group[0]["question"], _requests(group))
        scores |= {row["key"]: reward for row, reward in zip(group, rewards, strict=True)}
        on_progress(done, len(groups))
    seconds = time.monotonic() - began
    answered = [row for row in rows if row["source"] in ARMS]
    return {
        "reward_model": reward_model.name,
        "ms_per_pair": 1000 * seconds / len(rows),
        "answered": _figures(answered, scores),
        "everything": _figures(rows, scores),
        "domains": {
            domain: _figures(members, scores)
            for domain, members in _by_domain(answered or rows).items()
        },
    }


def _requests(rows: Sequence[CandidateRow]) -> list[RewardRequest]:
    """Return what a judge is shown of candidates of one question, with the samples near it."""
    return reward_requests([graph_candidate(row) for row in rows], samples=evidence_of_row(rows[0]))


def _by_domain(rows: Sequence[CandidateRow]) -> dict[str, list[CandidateRow]]:
    domains: dict[str, list[CandidateRow]] = {}
    for row in rows:
        domains.setdefault(row["domain"], []).append(row)
    return dict(sorted(domains.items()))


def _figures(rows: Sequence[CandidateRow], scores: Mapping[str, float]) -> RewardMetrics:
    return reward_metrics(
        [scores[row["key"]] for row in rows],
        [row["right"] for row in rows],
        [row["group"] for row in rows],
    )
