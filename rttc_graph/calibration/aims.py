"""From an aim to a gate: accuracy, cost and arm shares of all gates, and the one chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Protocol, TypeVar

from rttc_graph.arms import ARMS, cascade_arms, first_arm_names
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.intervals import is_above_zero
from rttc_graph.evaluation.replay import Arms, Gate, ReplayedRun, arm_shares, replay
from rttc_graph.state import Arm

GRID = tuple(round(step / 50, 2) for step in range(51))
"""Thresholds that are tried, 0 to 1: finer steps than the width of any interval here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Aim of choosing a gate; at most one of the four.

    With none, the cheapest gate that is not reliably worse than the most accurate one: the
    difference, question by question, is within one standard error. The very highest accuracy is
    often that of a gate that runs every arm for one answer more, and luck with these questions.
    """

    accuracy: float | None = None
    """Lowest accuracy; of the gates that reach it, the cheapest is taken."""
    seconds: float | None = None
    """Most seconds per question; of the gates within, the most accurate is taken."""
    best: bool = False
    """The most accurate gate; of several, the cheapest."""
    flops: float | None = None
    """Most floating-point operations of the policy model per question, trainings among them; of
    the gates within, the most accurate is taken. Then gates cost operations, and not seconds."""

    def __post_init__(self) -> None:
        """Refuse two aims, and values out of their bounds.

        Raises:
            ConfigurationError: Says which.
        """
        named = (self.accuracy, self.seconds, self.flops, self.best or None)
        if sum(one is not None for one in named) > 1:
            raise ConfigurationError(
                "give one aim: --target-accuracy, --target-cost, --target-flops or --best"
            )
        if self.flops is not None and not 0 < self.flops < math.inf:
            raise ConfigurationError(
                f"target flops={self.flops!r} must be above 0 and finite, such as 1e12"
            )
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise ConfigurationError(f"target accuracy={self.accuracy!r} must be above 0, up to 1")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigurationError(f"target cost={self.seconds!r} must be above 0 seconds")

    @property
    def most(self) -> float | None:
        """Bound on the mean cost of a question, in the unit of `in_words`; `None` without one."""
        return self.seconds if self.flops is None else self.flops

    def in_words(self, cost: float) -> str:
        """Return a mean cost in the unit that gates are compared in."""
        return f"{cost:.2f} s" if self.flops is None else f"{cost:.3g} operations"

    def __str__(self) -> str:
        if self.flops is not None:
            return f"at most {self.flops:.3g} operations per question"
        if self.accuracy is not None:
            return f"accuracy of at least {self.accuracy:.1%}"
        if self.seconds is not None:
            return f"at most {self.seconds:g} s per question"
        if self.best:
            return "highest accuracy"
        return "cheapest within one standard error of the highest accuracy"


class Outcome(Protocol):
    """What a gate or a plan does with some questions."""

    @property
    def rights(self) -> tuple[float, ...]:
        """1 for a right answer and 0 for a wrong one, in the order of the questions."""
        ...

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        ...

    @property
    def cost(self) -> float:
        """Mean per question, in the unit of the aim."""
        ...


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePoint:
    """Accuracy and cost of cascade with one gate."""

    gate: Gate
    rights: tuple[float, ...]
    """1 for a right answer and 0 for a wrong one, in the order of the questions; at least one."""
    seconds: float
    """Mean per question."""
    costs: tuple[float, ...] = ()
    """Seconds of each question, in their order."""
    flops: tuple[float, ...] = ()
    """Operations of each question, where these are what a gate costs; else none."""
    shares: Mapping[Arm, float]
    false_accepts: float
    """Share of all questions whose answer is wrong and was accepted."""
    false_rejects: float
    """Share of all questions that had a right answer in hand and accepted none."""
    accepted: float = 0.0
    """Share of all questions with an accepted answer."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return fmean(self.rights)

    @property
    def spent(self) -> tuple[float, ...]:
        """Cost of each question, in the unit that gates are compared in."""
        return self.flops or self.costs

    @property
    def cost(self) -> float:
        """Mean cost per question, in that unit."""
        return fmean(self.spent) if self.spent else self.seconds


def arm_choices(known: Iterable[Arm]) -> list[tuple[Arm, ...]]:
    """Return the lists of arms that a cascade may be made of, the short ones first.

    Args:
        known: Arms that there are rows of.
    """
    arms = [arm for arm in cascade_arms() if arm in set(known)]
    return [
        chosen
        for size in range(1, len(arms) + 1)
        for chosen in combinations(arms, size)
        if chosen[0] in first_arm_names()
    ]


def sweep(
    questions: Sequence[Arms],
    grid: Sequence[float] = GRID,
    *,
    choices: Sequence[tuple[Arm, ...]] | None = None,
    in_flops: bool = False,
) -> list[GatePoint]:
    """Return the figures of cascade for each choice of arms at each threshold of a grid.

    Args:
        questions: At least one; arms that not all of them have are left out.
        grid: Thresholds.
        choices: Lists of arms; `None` for all that there are.
        in_flops: Whether gates are compared by operations, and not by seconds.

    Raises:
        ConfigurationError: They are, and the rows do not have them.
    """
    known = set(ARMS).intersection(*questions)
    replayed = [_Replayed(arms) for arms in questions]
    return [
        _point(replayed, Gate(tau_r=tau_r, arms=arms), in_flops=in_flops)
        for arms in (arm_choices(known) if choices is None else choices)
        for tau_r in grid
    ]


def only(points: Sequence[GatePoint], places: Sequence[int]) -> list[GatePoint]:
    """Return what gates do on some of the questions, for `choose` and for plans.

    Args:
        points: Gates on all questions; their shares and shares of errors stay those of all.
        places: Places of the questions, at least one.
    """
    return [
        replace(
            point,
            rights=tuple(point.rights[place] for place in places),
            costs=(costs := tuple(point.costs[place] for place in places)),
            flops=tuple(point.flops[place] for place in places) if point.flops else (),
            seconds=fmean(costs),
        )
        for point in points
    ]


class _Replayed:
    """Cascade on one question; thresholds that accept the same answers are replayed once."""

    def __init__(self, arms: Arms) -> None:
        self._arms = arms
        self._known: dict[tuple[tuple[Arm, ...], tuple[bool, ...]], ReplayedRun] = {}

    def __call__(self, gate: Gate) -> ReplayedRun:
        rewards = (judged.reward for judged in self._arms.values())
        accepted = tuple(reward is not None and reward >= gate.tau_r for reward in rewards)
        key = gate.arms, accepted
        if key not in self._known:
            self._known[key] = replay(self._arms, "cascade", gate)
        return self._known[key]


def choose(points: Sequence[GatePoint], aim: Aim) -> GatePoint:
    """Return the point that an aim calls for, in the middle of those that do exactly the same.

    The middle of a stretch stays in it when the next questions move its ends a little.

    Raises:
        ConfigurationError: No threshold reaches it; says what the nearest one gives.
    """
    best = _best(points, aim)
    alike = [point for point in points if _same(point, best)]
    return alike[len(alike) // 2]


def _best(points: Sequence[GatePoint], aim: Aim) -> GatePoint:
    if aim.most is not None:
        within = [point for point in points if point.cost <= aim.most]
        if not within:
            least = min(points, key=lambda p: p.cost)
            raise ConfigurationError(
                f"no τr stays within {aim.in_words(aim.most)} per question: the cheapest takes "
                f"{aim.in_words(least.cost)} at τr={least.gate.tau_r:g}; raise the target"
            )
        return most_accurate(within)
    found = called_for(points, aim)
    if found is None:
        best = most_accurate(points)
        raise ConfigurationError(
            f"no τr reaches a target accuracy of {aim.accuracy:.1%}: the best is "
            f"{best.accuracy:.1%} at τr={best.gate.tau_r:g}; lower the target, or use a better "
            "model, reward model or knowledge base"
        )
    return found


def most_accurate(points: Sequence[OutcomeT]) -> OutcomeT:
    """Return the most accurate of some gates or plans, of equals the cheapest."""
    return min(points, key=lambda p: (-p.accuracy, p.cost))


def called_for(points: Sequence[OutcomeT], aim: Aim) -> OutcomeT | None:
    """Return the gate or plan that an aim other than a bound on the cost calls for.

    Returns:
        `None` where the aim is an accuracy that none reaches. By default the cheapest whose
        questions lost to the best are within one standard error.
    """
    best = most_accurate(points)
    if aim.best:
        return best
    if aim.accuracy is not None:
        good = [point for point in points if point.accuracy >= aim.accuracy]
    else:
        good = [point for point in points if not _is_worse(point, best)]
    return min(good, key=lambda p: (p.cost, -p.accuracy), default=None)


def _is_worse(point: Outcome, best: Outcome) -> bool:
    """Tell whether the questions lost to the best one are more than one standard error."""
    return is_above_zero([b - p for b, p in zip(best.rights, point.rights, strict=True)])


def overview(points: Sequence[GatePoint], chosen: GatePoint, aim: Aim) -> list[GatePoint]:
    """Return what a person needs to see of a sweep, in its order.

    Every fifth threshold with the chosen arms, where something changes; the chosen point; and what
    the aim would have chosen among other arms, once for each arm to begin with.
    """
    alike = [point for point in points if point.gate.arms == chosen.gate.arms]
    shown: list[GatePoint] = []
    for point in alike[::5]:
        if shown and _same(shown[-1], point):
            shown[-1] = point
        else:
            shown.append(point)
    others = [point for point in points if point.gate.arms != chosen.gate.arms]
    for first in dict.fromkeys(point.gate.arms[0] for point in others):
        with suppress(ConfigurationError):  # none of them reaches the aim
            shown.append(choose([p for p in others if p.gate.arms[0] == first], aim))
    return [point for point in points if point in shown or point is chosen]


def _same(one: GatePoint, other: GatePoint) -> bool:
    return (one.gate.arms, one.accuracy, one.cost) == (
        other.gate.arms,
        other.accuracy,
        other.cost,
    )


def _operations(outcomes: Sequence[ReplayedRun]) -> tuple[float, ...]:
    known = [outcome.flops for outcome in outcomes if outcome.flops is not None]
    if len(known) < len(outcomes):
        raise ConfigurationError(
            "the rows do not say how many operations their answers took, as those of models that "
            "are served elsewhere and of earlier releases: take --target-cost, or collect rows "
            "with a local model"
        )
    return tuple(known)


def _point(questions: Sequence[_Replayed], gate: Gate, *, in_flops: bool) -> GatePoint:
    outcomes = [replayed(gate) for replayed in questions]
    return GatePoint(
        gate=gate,
        rights=tuple(o.right for o in outcomes),
        seconds=fmean(o.seconds for o in outcomes),
        costs=tuple(o.seconds for o in outcomes),
        flops=_operations(outcomes) if in_flops else (),
        shares=arm_shares(outcomes),
        false_accepts=fmean(o.false_accept for o in outcomes),
        false_rejects=fmean(o.false_reject for o in outcomes),
        accepted=fmean(o.is_accepted_at(gate.tau_r) for o in outcomes),
    )
