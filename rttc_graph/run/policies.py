"""Who decides the next arm: pure functions of the state, so that each choice is a row of a table.

The order direct, RAG, TTT of `cascade` is our reading of RTTC (arXiv 2508.10024); a trained
adapter that the query-state cache recalls comes before RAG, because it costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rttc_graph.run.budget import NOTHING_SPENT, Allowance
from rttc_graph.settings import FirstArm, PolicyName, RttcSettings
from rttc_graph.state import Attempt, Candidate, Decision, RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What a policy may look at."""

    tried: frozenset[Attempt]
    possible: frozenset[Attempt]
    """What the graph and the samples found allow; before `retrieve` has run, all that might."""
    best_reward: float | None
    tau_r: float
    first_arm: FirstArm = "direct"
    """With which cascade and compare begin."""

    @property
    def accepted(self) -> bool:
        """Whether an answer in hand has a reward of at least τr."""
        return self.best_reward is not None and self.best_reward >= self.tau_r

    def first_open(self, *order: Attempt) -> Attempt | None:
        """Return the first attempt of `order` that is possible and was not tried."""
        return next((a for a in order if a in self.possible and a not in self.tried), None)


class ArmPolicy(Protocol):
    """Chooses the next attempt, or `None` to stop."""

    def __call__(self, view: RunView) -> Attempt | None:
        """Return the next attempt."""
        ...


def cascade(view: RunView) -> Attempt | None:
    """Try the arms from cheap to dear and stop at the first reward of at least τr.

    With `first_arm` RAG the plain model answers only where there are no samples.
    """
    if view.accepted:
        return None
    plain = view.first_open("direct") if view.first_arm == "direct" else None
    return plain or view.first_open("recalled", "rag", "ttt")


def compare(view: RunView) -> Attempt | None:
    """Below τr after the direct answer, run RAG and TTT whatever they score.

    With `first_arm` RAG there is no direct answer, and both always run.
    """
    if view.first_arm == "direct":
        if "direct" not in view.tried:
            return "direct"
        if len(view.tried) == 1 and view.accepted:
            return None
    adapted = view.first_open("recalled", "ttt") if not view.tried & {"recalled", "ttt"} else None
    return view.first_open("rag") or adapted


def always_direct(view: RunView) -> Attempt | None:
    """Run the plain model once."""
    return view.first_open("direct")


def always_rag(view: RunView) -> Attempt | None:
    """Answer once with samples in the prompt."""
    return view.first_open("rag")


def always_ttt(view: RunView) -> Attempt | None:
    """Answer once with an adapter, recalled if there is one, else trained."""
    return None if view.tried & {"recalled", "ttt"} else view.first_open("recalled", "ttt")


POLICIES: Mapping[PolicyName, ArmPolicy] = {
    "cascade": cascade,
    "compare": compare,
    "direct": always_direct,
    "rag": always_rag,
    "ttt": always_ttt,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The next step of a run and why."""

    decision: Decision
    reason: str
    attempt: Attempt = "direct"


def decide(state: RttcState, settings: RttcSettings, *, arms: frozenset[Attempt]) -> Choice:
    """Choose the next step from what the state holds.

    Args:
        state: After the last node's update.
        settings: The run's settings.
        arms: Attempts that this graph can make at all.
    """
    candidates = state.get("candidates", [])
    if any(c["reward"] is None for c in candidates):
        return Choice("finish", "an answer could not be judged")
    view = _view(state, settings, arms)
    if (spent := _budget_end(state, settings)) and candidates:
        return Choice("finish", f"budget of {spent} is spent")
    attempt = POLICIES[settings.policy](view)
    if attempt is None and not candidates:
        attempt = view.first_open("direct")  # a policy without its arm still owes an answer
    if attempt is None:
        return Choice("finish", "accepted" if view.accepted else "nothing left to try")
    return _step_to(attempt, retrieved=state.get("retrieved", False))


def best_candidate(candidates: list[Candidate]) -> Candidate | None:
    """Return the candidate with the highest reward; of equals the earliest, which is the cheapest.

    An unjudged one counts below every judged one: it wins only when nothing was judged.
    """
    judged = [c for c in candidates if c["reward"] is not None]
    if not judged:
        return candidates[0] if candidates else None
    return max(judged, key=lambda c: c["reward"] or 0.0)


def _view(state: RttcState, settings: RttcSettings, arms: frozenset[Attempt]) -> RunView:
    possible = set(arms)
    if state.get("retrieved", False):
        if not state.get("samples"):
            possible -= {"rag", "ttt"}
        if (adapted := state.get("adapted")) is None or adapted["origin"] != "recalled":
            possible -= {"recalled"}
    rewards = [c["reward"] for c in state.get("candidates", []) if c["reward"] is not None]
    return RunView(
        tried=frozenset(state.get("tried", [])),
        possible=frozenset(possible),
        best_reward=max(rewards, default=None),
        tau_r=settings.tau_r,
        first_arm=settings.first_arm,
    )


def _budget_end(state: RttcState, settings: RttcSettings) -> str | None:
    return Allowance.of(state.get("spent", NOTHING_SPENT), settings).exhausted()


def _step_to(attempt: Attempt, *, retrieved: bool) -> Choice:
    if attempt == "direct":
        return Choice("generate", "the plain model answers", attempt)
    if not retrieved:
        return Choice("retrieve", f"samples are needed for {attempt}", attempt)
    if attempt == "rag":
        return Choice("rag_generate", "samples go into the prompt", attempt)
    if attempt == "recalled":
        return Choice("generate", "an adapter was recalled", attempt)
    return Choice("ttt_adapt", "an adapter is trained on the samples", attempt)
