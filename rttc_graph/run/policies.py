"""Who decides the next arm: pure functions of the state, so that each choice is a row of a table.

The order direct, RAG, TTT of `cascade` is our reading of RTTC (arXiv 2508.10024). What the nearest
samples say comes before all of them, since it costs a search; a trained adapter that the
query-state cache recalls comes before RAG, because it costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rttc_graph.arms import ARMS, FINISH, PLAIN, RETRIEVE, ArmRecord, default_arms, in_order
from rttc_graph.run.budget import NOTHING_SPENT, Allowance
from rttc_graph.run.prompts import solved
from rttc_graph.run.tau_r import best_candidate, can_be_accepted, is_accepted
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm, Attempt, Decision, RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """View of a run that a policy decides on."""

    tried: frozenset[Attempt]
    possible: frozenset[Attempt]
    """Attempts that the graph and the retrieved samples allow; before `retrieve`, all that might
    be."""
    best_reward: float | None
    """Reward of the best answer in hand; `None` where it could not be accepted whatever it is."""
    tau_r: float
    arms: tuple[Arm, ...]
    """Arms that cascade and compare try, from cheap to dear."""

    @property
    def accepted(self) -> bool:
        """Whether an answer in hand has a reward of at least τr."""
        return is_accepted(self.best_reward, self.tau_r)

    def first_open(self, *order: Attempt) -> Attempt | None:
        """Return the first attempt of `order` that is possible and was not tried."""
        return next((a for a in order if a in self.possible and a not in self.tried), None)


class ArmPolicy(Protocol):
    """Chooses the next attempt, or `None` to stop."""

    def __call__(self, view: RunView) -> Attempt | None:
        """Return the next attempt."""
        ...


def cascade(view: RunView) -> Attempt | None:
    """Try the arms from cheap to dear and stop at the first reward of at least τr."""
    if view.accepted:
        return None
    return view.first_open(*(a for a in ARMS.attempts if ARMS.of_attempt(a).name in view.arms))


def compare(view: RunView) -> Attempt | None:
    """Run RAG and TTT whatever they score, unless an answer that costs less is accepted before.

    What costs less is the nearest samples' own answer and the plain model's, where they are among
    the arms.
    """
    arms = [ARMS[name] for name in view.arms]
    compared = [arm for arm in arms if arm.retrieves and arm.own.asks_model]
    begun = any(attempt.name in view.tried for arm in compared for attempt in arm.attempts)
    if not begun:
        if view.accepted:
            return None
        compared = [*(arm for arm in arms if arm not in compared), *compared]
    return next((attempt for arm in compared if (attempt := _once(arm, view)) is not None), None)


def _once(arm: ArmRecord, view: RunView) -> Attempt | None:
    """Return the cheapest attempt of an arm that is possible, if none of them was tried."""
    attempts = sorted(arm.attempts, key=lambda attempt: attempt.cost)
    names = [attempt.name for attempt in attempts]
    return None if view.tried & set(names) else view.first_open(*names)


PLAN_POLICIES: Mapping[PolicyName, ArmPolicy] = {"cascade": cascade, "compare": compare}
"""Policies over several arms."""


def arm_policy(name: PolicyName) -> ArmPolicy:
    """Return the policy of a name; one that is named after an arm answers once with that arm."""
    return PLAN_POLICIES[name] if name in PLAN_POLICIES else partial(_once, ARMS[name])


@dataclass(frozen=True, slots=True)
class NextStep:
    """The next step of a run and why."""

    decision: Decision
    reason: str
    attempt: Attempt = PLAIN
    """Next attempt; without meaning where the run ends."""


def decide(state: RttcState, settings: RttcSettings, *, arms: frozenset[Attempt]) -> NextStep:
    """Choose the next step from what the state holds.

    Args:
        state: After the last node's update.
        settings: The run's settings.
        arms: Attempts that this graph can make at all.
    """
    candidates = state.get("candidates", [])
    if any(c["reward"] is None for c in candidates):
        return NextStep(FINISH, "an answer could not be judged")
    view = _view(state, settings, arms)
    if (spent := _budget_end(state, settings)) and candidates:
        return NextStep(FINISH, f"budget of {spent} is spent")
    attempt = arm_policy(settings.policy)(view)
    if attempt is None and not candidates:
        attempt = view.first_open(PLAIN)  # a policy without its arm still owes an answer
    if attempt is None:
        return NextStep(FINISH, "accepted" if view.accepted else "nothing left to try")
    return _step_to(attempt, retrieved=state.get("retrieved", False))


def _view(state: RttcState, settings: RttcSettings, arms: frozenset[Attempt]) -> RunView:
    possible = arms
    if state.get("retrieved", False):
        adapted = state.get("adapted")
        samples = state.get("samples", [])
        found = {
            None: True,
            "samples": bool(samples),
            "solved": bool(solved(samples)),
            "adapter": adapted is not None and adapted["origin"] == "recalled",
        }
        possible = frozenset(a for a in arms if found[ARMS.attempts[a].finds])
    best = best_candidate(state.get("candidates", []))
    acceptable = best is not None and can_be_accepted(best, state, settings)
    if settings.min_similarity > 0 and not state.get("retrieved", False):
        # Whether a sample is near enough is not known yet.
        acceptable &= not any(ARMS.of_attempt(attempt).retrieves for attempt in arms)
    return RunView(
        tried=frozenset(state.get("tried", [])),
        possible=possible,
        best_reward=best["reward"] if best is not None and acceptable else None,
        tau_r=settings.tau_r,
        arms=settings.wanted_arms or in_order(state.get("arms", ())) or default_arms(),
    )


def _budget_end(state: RttcState, settings: RttcSettings) -> str | None:
    return Allowance.from_spent(state.get("spent", NOTHING_SPENT), settings).exhausted()


def _step_to(attempt: Attempt, *, retrieved: bool) -> NextStep:
    record = ARMS.attempts[attempt]
    if record.finds is not None and not retrieved:
        return NextStep(RETRIEVE, f"samples are needed for {attempt}", attempt)
    return NextStep(record.node.name, record.reason, attempt)
