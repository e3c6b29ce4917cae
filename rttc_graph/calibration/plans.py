"""Plans by difficulty: fitted on judged answers, at a price for a second or an operation.

A plan is a first arm, bins of the P(right) of its answer, and for each bin a gate that begins with
that arm. So what a plan does with a question is what one of the swept gates does with it, and
everything here is sums over those.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from rttc_graph.arms import PLAN, first_arm_names
from rttc_graph.calibration.aims import (
    Aim,
    GatePoint,
    called_for,
    choose,
    most_accurate,
    only,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.comparison import DEFAULT_POLICY
from rttc_graph.evaluation.intervals import paired_difference, wilson_interval
from rttc_graph.evaluation.replay import Arms, JudgedArm, ReplayedRun, replay
from rttc_graph.protocols import summed
from rttc_graph.run.tau_r import is_unanswered
from rttc_graph.state import Arm, Plan, PlanBin

MOST_BINS = 3
"""Most bins of a plan: four have too few questions each, and lose (docs/experiments.md)."""

LEAST_IN_BIN = 30
"""Fewest questions that a bin is fitted on."""

PRICES = (0.0, *(step * 10.0**power for power in range(-2, 2) for step in (1, 2, 5)), 100.0)
"""Prices that are tried: accuracy that the mean seconds of the dearest gate cost. The highest are
for arms that take a hundredth of these."""

_BISECTIONS = 20
"""Steps to a price; each halves what is not known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPoint:
    """Accuracy and cost of a plan on the questions that it was fitted on."""

    plan: Plan
    price: float
    """Accuracy that a unit of the cost was worth when it was chosen."""
    counts: tuple[int, ...]
    """Questions in each bin."""
    rights: tuple[float, ...]
    """1 for a right answer and 0 for a wrong one, in the order of the questions."""
    costs: tuple[float, ...]
    """Seconds of each question."""
    flops: tuple[float, ...] = ()
    """Operations of each question, where these are what a plan costs; else none."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return fmean(self.rights)

    @property
    def seconds(self) -> float:
        """Mean per question."""
        return fmean(self.costs)

    @property
    def cost(self) -> float:
        """Mean per question, in the unit that plans are compared in."""
        return fmean(self.flops or self.costs)


@dataclass(frozen=True, slots=True)
class _Choices:
    """What gates that begin with one arm do, summed by bin."""

    edges: tuple[float, ...]
    places: tuple[int, ...]
    """Bin of each question."""
    points: Sequence[GatePoint]
    sums: Sequence[Sequence[tuple[float, float]]]
    """Right answers and cost by point and bin."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Questions in each bin."""
        return tuple(self.places.count(number) for number in range(len(self.edges) + 1))


@dataclass(slots=True)
class PlanFitting:
    """All plans for some questions; what each gate does with them is known.

    Args:
        questions: With the rewards that count, at least one.
        points: Gates of the cascade on these questions. Where rewards tell nothing there are only
            single arms among them, and plans are single arms too.
        folds: Fold of each question, for figures on questions that plans were not fitted on.
        most_bins: Most bins of a plan.
    """

    questions: Sequence[Arms]
    points: Sequence[GatePoint]
    folds: Sequence[int] = ()
    most_bins: int = MOST_BINS
    _choices: dict[Arm, _Choices] = field(init=False, default_factory=dict[Arm, _Choices])

    def __post_init__(self) -> None:
        for first in first_arm_names():
            mine = [point for point in self.points if point.gate.arms[0] == first]
            if mine:
                self._choices[first] = self._choices_of(first, mine)

    @property
    def dearest(self) -> float:
        """Mean cost of the dearest gate, above 0."""
        return max(1e-9, *(point.cost for point in self.points))

    def at_price(self, price: float) -> PlanPoint:
        """Return the plan that is worth most where a unit of cost is `price` of accuracy."""
        return max(
            (self._plan(found, price) for found in self._choices.values()),
            key=lambda p: (p.accuracy - price * p.cost, -p.cost),
        )

    def curve(self) -> list[PlanPoint]:
        """Return the plans of all prices and first arms, the cheapest first, each once."""
        points = [
            self._plan(found, price / self.dearest)
            for price in PRICES
            for found in self._choices.values()
        ]
        each = {str(point.plan): point for point in points}
        return sorted(each.values(), key=lambda p: (p.cost, -p.accuracy))

    def chosen(self, aim: Aim) -> PlanPoint:
        """Return the plan that an aim other than a bound on the cost calls for.

        Raises:
            ConfigurationError: No plan reaches it; says what the nearest one gives.
        """
        points = self.curve()
        found = called_for(points, aim)
        if found is None:
            raise ConfigurationError(
                f"no plan reaches a target accuracy of {aim.accuracy:.1%}: the best has "
                f"{most_accurate(points).accuracy:.1%}; lower the target"
            )
        return found

    def without(self, fold: int) -> PlanFitting:
        """Return the plans for the questions of all other folds.

        Raises:
            ConfigurationError: There are none.
        """
        places = [place for place, other in enumerate(self.folds) if other != fold]
        if not places:
            raise ConfigurationError("all questions are in one fold: give more")
        return PlanFitting(
            questions=[self.questions[place] for place in places],
            points=only(self.points, places),
            folds=[self.folds[place] for place in places],
            most_bins=self.most_bins,
        )

    def _choices_of(self, first: Arm, points: Sequence[GatePoint]) -> _Choices:
        known = [_difficulty(arms[first]) for arms in self.questions]
        edges = _edges(known, self.most_bins)
        if all(len(point.gate.arms) == 1 for point in points):
            edges = ()  # there is nothing to choose between
        places = tuple(0 if one is None else bisect_right(edges, one) for one in known)
        bins = range(len(edges) + 1)
        sums: list[list[tuple[float, float]]] = []
        for point in points:
            right, spent = [0.0 for _ in bins], [0.0 for _ in bins]
            for place, is_right, cost in zip(places, point.rights, point.spent, strict=True):
                right[place] += is_right
                spent[place] += cost
            sums.append(list(zip(right, spent, strict=True)))
        return _Choices(edges, places, points, sums)

    def _plan(self, found: _Choices, price: float) -> PlanPoint:
        taken = [_worth_most(found, number, price) for number in range(len(found.edges) + 1)]
        kept = [n for n in range(len(taken)) if n == 0 or _does(taken[n]) != _does(taken[n - 1])]
        counts = found.counts
        ends = [*kept[1:], len(taken)]
        return PlanPoint(
            plan={
                "first": taken[0].gate.arms[0],
                "edges": [found.edges[number - 1] for number in kept[1:]],
                "bins": [_bin(taken[number]) for number in kept],
            },
            price=price,
            counts=tuple(sum(counts[n:end]) for n, end in zip(kept, ends, strict=True)),
            rights=tuple(taken[place].rights[n] for n, place in enumerate(found.places)),
            costs=tuple(taken[place].costs[n] for n, place in enumerate(found.places)),
            flops=tuple(
                taken[place].flops[n] for n, place in enumerate(found.places) if taken[place].flops
            ),
        )


def plan_chooser(fittings: Sequence[PlanFitting], aim: Aim) -> Callable[[PlanFitting], PlanPoint]:
    """Return what chooses the plan of each domain for an aim.

    A bound on the mean cost is one for all questions, so there is one price for all of them: the
    lowest that stays within, found by bisection.

    Args:
        fittings: Domains, each question in one of them.
        aim: What the plans are to reach.

    Raises:
        ConfigurationError: No plans stay within the bound.
    """
    if aim.most is None:
        return lambda fitting: fitting.chosen(aim)
    price = _price_within(fittings, aim.most, aim)
    return lambda fitting: fitting.at_price(price)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPlans:
    """Figures of plans, and of cascade, on questions that they were not fitted on."""

    questions: int
    accuracy: float
    interval: tuple[float, float]
    """Ends of its 95 % Wilson score interval."""
    seconds: float
    """Mean per question."""
    flops: float | None
    """Mean operations per question; `None` where they are not known."""
    cascade_accuracy: float
    cascade_seconds: float
    difference: tuple[float, float, float]
    """Accuracy less that of cascade, with the ends of its 95 % paired bootstrap interval."""


def expected_plans(parts: Sequence[PlanFitting], aim: Aim) -> ExpectedPlans | None:
    """Return what plans do that are fitted on the other folds, each part by itself.

    Args:
        parts: All questions, each in one part, with their folds, and with rewards of maps that
            have not seen them.
        aim: What plans and gates are to reach.

    Returns:
        `None` where a part has too few questions, or some fold does not reach the aim.
    """
    plans: list[ReplayedRun] = []
    gates: list[ReplayedRun] = []
    try:
        for fold in sorted({fold for part in parts for fold in part.folds}):
            others = [part.without(fold) for part in parts]
            plan_of = plan_chooser(others, aim)
            for part, rest in zip(parts, others, strict=True):
                mine = [q for q, f in zip(part.questions, part.folds, strict=True) if f == fold]
                gate = choose(rest.points, aim).gate
                gate = replace(gate, plan=plan_of(rest).plan)
                plans += [replay(arms, PLAN, gate) for arms in mine]
                gates += [replay(arms, DEFAULT_POLICY, gate) for arms in mine]
    except ConfigurationError:
        return None
    rights = [run.right for run in plans]
    return ExpectedPlans(
        questions=len(plans),
        accuracy=fmean(rights),
        interval=wilson_interval(round(sum(rights)), len(rights)),
        seconds=fmean(run.seconds for run in plans),
        flops=_mean_flops(plans),
        cascade_accuracy=fmean(run.right for run in gates),
        cascade_seconds=fmean(run.seconds for run in gates),
        difference=paired_difference(rights, [run.right for run in gates]),
    )


def _mean_flops(runs: Sequence[ReplayedRun]) -> float | None:
    total = summed(*(run.flops for run in runs))
    return None if total is None else total / len(runs)


def _price_within(fittings: Sequence[PlanFitting], most: float, aim: Aim) -> float:
    def spent(price: float) -> float:
        plans = [fitting.at_price(price) for fitting in fittings]
        return fmean(cost for plan in plans for cost in plan.flops or plan.costs)

    if spent(0.0) <= most:
        return 0.0
    first = low, high = 0.0, 1.0 / min(fitting.dearest for fitting in fittings)
    while spent(high) > most:
        low, high = high, high * 10
        if high > first[1] * _HIGHEST_PRICE:
            raise ConfigurationError(
                f"no plan stays within {aim.in_words(most)} per question: the cheapest takes "
                f"{aim.in_words(spent(high))}; raise the target"
            )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= most else (middle, high)
    return high


_HIGHEST_PRICE = 1e9
"""Price, in accuracy for the cost of the dearest gate, at which nothing but the cost counts."""


def _difficulty(judged: JudgedArm) -> float | None:
    """Return the reward of an answer; `None` where there is none, as in a run."""
    candidate = judged.candidate
    return None if candidate is None or is_unanswered(candidate) else judged.reward


def _edges(known: Sequence[float | None], most_bins: int) -> tuple[float, ...]:
    """Return bounds of as many bins as hold `LEAST_IN_BIN` questions each, evenly filled.

    Args:
        known: Difficulty of each question; those without one are in the lowest bin.
        most_bins: Most bins.
    """
    rising = sorted(one for one in known if one is not None)
    for bins in range(most_bins, 1, -1):
        edges = tuple(rising[len(rising) * n // bins] for n in range(1, bins) if rising)
        if len(set(edges)) < bins - 1:
            continue
        places = [0 if one is None else bisect_right(edges, one) for one in known]
        if min(places.count(number) for number in range(bins)) >= LEAST_IN_BIN:
            return edges
    return ()


def _worth_most(found: _Choices, number: int, price: float) -> GatePoint:
    """Return the gate that is worth most in a bin, in the middle of those that do the same."""

    def worth(place: int) -> tuple[float, float]:
        right, spent = found.sums[place][number]
        return right - price * spent, -spent

    places = range(len(found.points))
    best = max(places, key=worth)
    alike = [
        n
        for n in places
        if found.sums[n][number] == found.sums[best][number]
        and found.points[n].gate.arms == found.points[best].gate.arms
    ]
    return found.points[alike[len(alike) // 2]]


def _does(point: GatePoint) -> tuple[tuple[Arm, ...], float]:
    """Return what a gate does, so that neighbouring bins that do the same become one."""
    return point.gate.arms, point.gate.tau_r if len(point.gate.arms) > 1 else 0.0


def _bin(point: GatePoint) -> PlanBin:
    arms, tau_r = _does(point)
    return {"arms": list(arms[1:]), "tau_r": tau_r}
