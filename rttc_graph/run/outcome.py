"""The output of a run beside its answer: whether it is accepted, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from rttc_graph.run.prompts import samples_in_hand
from rttc_graph.run.tau_r import is_answer_accepted
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Arm, Candidate, RttcState, Sample, Source

__all__ = ("Outcome", "answer_sources", "run_outcome", "told_in_ledger", "trace_metadata")


class Outcome(TypedDict):
    """The answer and the part of a run's output that tells what it is worth."""

    answer: str
    declined: bool
    arm: Arm
    reward: float | None
    accepted: bool
    tau_r: float
    calibrated: bool
    sources: list[Source]
    run_id: str


def run_outcome(
    best: Candidate, state: RttcState, settings: RttcSettings, *, calibrated: bool
) -> Outcome:
    """Return what a run says where it ends.

    Args:
        best: The best candidate of the run.
        state: State of the run, with all candidates judged as far as they could be.
        settings: Settings of the run.
        calibrated: Whether the reward is a probability, by a calibration for the domain.
    """
    accepted = is_answer_accepted(best, state, settings)
    declined = settings.below == "decline" and not accepted
    return {
        "answer": settings.decline_text if declined else best["answer"],
        "declined": declined,
        "arm": best["arm"],
        "reward": best["reward"],
        "accepted": accepted,
        "tau_r": settings.tau_r,
        "calibrated": calibrated,
        "sources": answer_sources(best, state["candidates"], samples_in_hand(state)),
        "run_id": state["run_id"],
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


def trace_metadata(
    outcome: Outcome, best: Candidate, settings: RttcSettings, *, tokens: int
) -> dict[str, Any]:
    """Return what a trace is to know of a run that ends, as plain values to filter by.

    Args:
        outcome: What the run says of its answer.
        best: The answer.
        settings: Settings of the run.
        tokens: Tokens of the whole run, prompts, completions and training together.
    """
    return {
        "rttc_run_id": outcome["run_id"],
        "rttc_policy": settings.policy,
        "rttc_arm": outcome["arm"],
        "rttc_accepted": outcome["accepted"],
        "rttc_reward": outcome["reward"],
        "rttc_tau_r": outcome["tau_r"],
        "rttc_adapter": best["adapter"],
        "rttc_tokens": tokens,
    }


def told_in_ledger(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the ledger has it: its sources by their ids, without their texts."""
    elsewhere = ("run_id", "answer")
    told: dict[str, Any] = {k: value for k, value in outcome.items() if k not in elsewhere}
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
