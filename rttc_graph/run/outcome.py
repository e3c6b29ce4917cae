"""The output of a run beside its answer: whether it is accepted, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from rttc_graph.run.policies import is_accepted
from rttc_graph.state import Arm, Candidate, Sample, Source

__all__ = ("Outcome", "answer_sources", "run_outcome", "told_in_ledger")


class Outcome(TypedDict):
    """Part of a run's output that tells what the answer is worth."""

    arm: Arm
    reward: float | None
    accepted: bool
    tau_r: float
    calibrated: bool
    sources: list[Source]
    run_id: str


def run_outcome(
    best: Candidate,
    candidates: Sequence[Candidate],
    samples: Sequence[Sample],
    *,
    tau_r: float,
    calibrated: bool,
    run_id: str,
) -> Outcome:
    """Return what is said of the answer that was taken.

    Args:
        best: The answer.
        candidates: All answers of the run, `best` among them.
        samples: Samples in hand, nearest first.
        tau_r: Reward from which on an answer is accepted.
        calibrated: Whether the reward is a probability, by a calibration for the domain.
        run_id: What the run is stored under.
    """
    return {
        "arm": best["arm"],
        "reward": best["reward"],
        "accepted": is_accepted(best["reward"], tau_r),
        "tau_r": tau_r,
        "calibrated": calibrated,
        "sources": answer_sources(best, candidates, samples),
        "run_id": run_id,
    }


def answer_sources(
    best: Candidate, candidates: Sequence[Candidate], samples: Sequence[Sample]
) -> list[Source]:
    """Return the samples that answers rest on, nearest first, without those that no arm used."""
    sources: list[Source] = []
    for sample in samples:
        arms = [c["arm"] for c in candidates if sample["id"] in c.get("rests_on", ())]
        if arms:
            taken = sample["id"] in best.get("rests_on", ())
            sources.append({**sample, "arms": list(dict.fromkeys(arms)), "taken": taken})
    return sources


def told_in_ledger(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the ledger has it: its sources by their ids, without their texts."""
    told: dict[str, Any] = {name: value for name, value in outcome.items() if name != "run_id"}
    told["sources"] = [
        {
            "id": source["id"],
            "similarity": source["similarity"],
            "arms": source["arms"],
            "taken": source["taken"],
        }
        for source in outcome["sources"]
    ]
    return told
