"""Who decides the next arm: pure functions of the state, so that each choice is a row of a table.

The order direct, RAG, TTT of `cascade` is our reading of RTTC (arXiv 2508.10024). What the nearest
samples say comes before all of them, since it costs a search; a trained adapter that the
query-state cache recalls comes before RAG, because it costs no training. Within its bin a plan is a
cascade, so it adds no rule of its own for going on and stopping.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rttc_graph.arms import ARMS, FINISH, PLAIN, PLAN, RETRIEVE, ArmRecord, default_arms, in_order
from rttc_graph.errors import ConfigurationError
from rttc_graph.run.budget import NOTHING_SPENT, Allowance
from rttc_graph.run.prompts import solved
from rttc_graph.run.tau_r import best_candidate, can_be_accepted, is_accepted, is_unanswered
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm, Attempt, Candidate, Decision, Plan, RttcState


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Part of a plan that holds for a run now."""

    arms: tuple[Arm, ...]
    """Arms that may be tried, the first one among them."""
    tau_r: float
    """Reward from which on no further arm is tried."""
    words: str
    """Bin with its bounds, for the ledger; before the first answer, that it comes."""


def bin_of(plan: Plan, difficulty: float | None) -> int:
    """Return the number of a difficulty's bin, from 0; questions without one are the hardest."""
    return 0 if difficulty is None else bisect_right(plan["edges"], difficulty)


def first_difficulty(plan: Plan, candidates: Sequence[Candidate]) -> float | None:
    """Return the reward of the first arm's answer; `None` where it has none or does not answer."""
    first = next((c for c in candidates if c["arm"] == plan["first"]), None)
    return None if first is None or is_unanswered(first) else first["reward"]


def no_plan(domain: str | None, reward_model: str) -> ConfigurationError:
    """Return the error of a question for which no plan is kept.

    Args:
        domain: Domain of the question.
        reward_model: Name of the reward model, whose calibration would have it.
    """
    where = f"the domain {domain!r}" if domain else "questions without a domain"
    return ConfigurationError(
        f"policy='plan', but no plan is kept for {where} with the reward model {reward_model!r}: "
        "make one with 'rttc calibrate QUESTIONS.jsonl --save' on such questions, or take "
        "policy=cascade, which needs none"
    )


def plan_step(plan: Plan, state: RttcState, possible: frozenset[Attempt]) -> PlanStep:
    """Return what a plan says in a state.

    Args:
        plan: The plan.
        state: After the last node's update. Its `difficulty` holds before the rewards of its
            candidates: a judge that sees more later must not move a question to another bin.
        possible: Attempts that the graph and the retrieved samples allow.
    """
    first = plan["first"]
    attempts = {attempt.name for attempt in ARMS[first].attempts}
    if not attempts & set(state.get("tried", ())) and attempts & possible:
        return PlanStep((first,), 1.0, f"{first} is the plan's first arm")
    difficulty = state.get("difficulty")
    if difficulty is None:
        difficulty = first_difficulty(plan, state.get("candidates", ()))
    number = bin_of(plan, difficulty)
    found = plan["bins"][number]
    known = tuple(arm for arm in found["arms"] if arm in ARMS)
    return PlanStep((first, *known), found["tau_r"], _bin_words(plan, number, difficulty))


def _bin_words(plan: Plan, number: int, difficulty: float | None) -> str:
    """Return a bin, its bounds and why a question is in it, in words."""
    count = len(plan["bins"])
    if difficulty is None:
        why = f"{plan['first']} gave no answer"
    else:
        why = f"P(right) of {plan['first']} is {difficulty:.2f}"
    if count == 1:
        return f"the only bin of the plan ({why})"
    return f"bin {number + 1} of {count} ({why}; {bounds(plan, number)})"


def bounds(plan: Plan, number: int) -> str:
    """Return the bounds of a bin in words."""
    low, high = (["", *(f"{edge:.2f}" for edge in plan["edges"]), ""])[number : number + 2]
    if not low:
        return f"below {high}" if high else "any"
    return f"{low} to {high}" if high else f"{low} or more"


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
    """Reward from which on no further arm is tried; the plan's, where the policy goes by one."""
    arms: tuple[Arm, ...]
    """Arms that a policy of several arms tries, from cheap to dear."""
    plan: PlanStep | None = None
    """Part of the plan that holds now, where the policy goes by one."""

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


MULTI_ARM_POLICIES: Mapping[PolicyName, ArmPolicy] = {
    "cascade": cascade,
    "compare": compare,
    PLAN: cascade,  # of the arms and the τr that the question's difficulty calls for
}
"""Policies over several arms."""


def arm_policy(name: PolicyName) -> ArmPolicy:
    """Return the policy of a name; one that is named after an arm answers once with that arm."""
    return MULTI_ARM_POLICIES.get(name) or partial(_once, ARMS[name])


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
        return NextStep(FINISH, _told(view, _why_over(view)))
    step = _step_to(attempt, retrieved=state.get("retrieved", False))
    return replace(step, reason=_told(view, step.reason))


def _why_over(view: RunView) -> str:
    if view.plan is not None and view.accepted and len(view.plan.arms) > 1:
        return f"no further arm from a reward of {view.tau_r:g} on"
    if view.plan is not None:
        return "the plan has no further arm here"
    return "accepted" if view.accepted else "nothing left to try"


def _told(view: RunView, reason: str) -> str:
    """Return a reason, with what the plan says of the question where there is a plan."""
    if view.plan is None:
        return reason
    return f"{view.plan.words}: {reason}"


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
    plan = state.get("plan") if settings.policy == PLAN else None
    step = plan_step(plan, state, possible) if plan else None
    arms_of_all = settings.wanted_arms or in_order(state.get("arms", ())) or default_arms()
    return RunView(
        tried=frozenset(state.get("tried", [])),
        possible=possible,
        best_reward=best["reward"] if best is not None and acceptable else None,
        tau_r=step.tau_r if step else settings.tau_r,
        arms=step.arms if step else arms_of_all,
        plan=step,
    )


def _budget_end(state: RttcState, settings: RttcSettings) -> str | None:
    return Allowance.from_spent(state.get("spent", NOTHING_SPENT), settings).exhausted()


def _step_to(attempt: Attempt, *, retrieved: bool) -> NextStep:
    record = ARMS.attempts[attempt]
    if record.finds is not None and not retrieved:
        return NextStep(RETRIEVE, f"samples are needed for {attempt}", attempt)
    return NextStep(record.node.name, record.reason, attempt)
