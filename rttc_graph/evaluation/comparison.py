"""Policies and baselines against each other, question by question, and the verdict in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS
from rttc_graph.evaluation.baselines import BASELINES, MAJORITY
from rttc_graph.evaluation.intervals import MIN_QUESTIONS, is_above_zero, paired_difference
from rttc_graph.evaluation.replay import ReplayedRun

DEFAULT_POLICY = "cascade"
"""Policy that the others are compared with."""

AS_GOOD = 0.05
"""One policy is as good as another if the 95 % interval leaves the other less than this ahead. Two
equal policies that differ on one answer in ten have an interval that wide with 150 questions."""

MIN_AS_GOOD = 60
"""Questions below which no two are as good as each other: a share that was 0 in 60 may well be 3 in
60 (the rule of three, 95 %), and the bootstrap of equal answers knows nothing of that."""

CHEAPER = 1.2
"""One is cheaper if the other takes this many times its seconds; less is noise of the machine."""

Finding = Literal["as good", "better", "best", "open"]
"""The kind of a verdict: a cheaper one is as good, one is better than the default policy, the first
is best and all cheaper ones are worse, or there are too few questions to tell."""


class Verdict(TypedDict):
    """The one line that an evaluation ends with, and what it says as data."""

    text: str
    finding: Finding
    policy: str
    """Policy or baseline that the verdict is about."""
    against: str | None
    """Policy or baseline that it is compared with; `None` where there is none."""
    difference: list[float] | None
    """Accuracy of `against` less that of `policy`, low and high end of its 95 % interval."""
    cost_ratio: float | None
    """Seconds of `policy` as a share of those of `against`; `None` if these are 0."""


class AgainstArms(TypedDict):
    """The default policy against each arm alone."""

    arms: dict[str, list[float]]
    """Accuracy of the default policy less that of the arm, low and high end, by arm."""
    cheapest_good: str
    """Cheapest arm within one standard error of the most accurate one."""
    cost_ratio: float | None
    """Seconds of the default policy, in those of that arm; `None` if these are 0."""


class Difference(NamedTuple):
    """A difference of two accuracies with its 95 % interval."""

    mean: float
    low: float
    high: float


class Comparisons:
    """Ways to answer the same questions, compared in pairs; each pair is resampled once.

    Args:
        outcomes: Runs by policy or baseline, all over the same questions in the same order.
    """

    def __init__(self, outcomes: Mapping[str, Sequence[ReplayedRun]]) -> None:
        self.rights = {name: [run.right for run in runs] for name, runs in outcomes.items()}
        self.seconds = {name: fmean(run.seconds for run in runs) for name, runs in outcomes.items()}
        self.accuracy = {name: fmean(rights) for name, rights in self.rights.items()}
        self.questions = len(next(iter(self.rights.values())))
        self._known: dict[tuple[str, str], Difference] = {}

    def __call__(self, ours: str, theirs: str) -> Difference:
        """Return our accuracy less theirs."""
        if (theirs, ours) in self._known:
            mean, low, high = self._known[theirs, ours]
            return Difference(0.0 - mean, 0.0 - high, 0.0 - low)  # no -0.0, which is shown
        if (ours, theirs) not in self._known:
            found = paired_difference(self.rights[ours], self.rights[theirs])
            self._known[ours, theirs] = Difference(*found)
        return self._known[ours, theirs]

    def most_accurate(self, names: Sequence[str]) -> str:
        """Return the most accurate of some, of equals the cheapest policy, which can be chosen."""
        return min(
            names,
            key=lambda name: (-self.accuracy[name], name in BASELINES, self.seconds[name]),
        )

    def is_better(self, ours: str, theirs: str) -> bool:
        """Tell whether ours is more accurate, by more than chance."""
        return self.questions >= MIN_QUESTIONS and self(ours, theirs).low > 0

    def is_as_good(self, ours: str, theirs: str) -> bool:
        """Tell whether theirs is not ahead by `AS_GOOD`, by more than chance."""
        return self.questions >= MIN_AS_GOOD and self(theirs, ours).high < AS_GOOD

    def is_cheaper(self, ours: str, theirs: str) -> bool:
        """Tell whether theirs takes `CHEAPER` times the seconds."""
        return self.seconds[theirs] > CHEAPER * self.seconds[ours]


def verdict(found: Comparisons, names: Sequence[str], *, where: str = "") -> Verdict:
    """Return what the figures come to, in one line of plain English.

    The default policy is measured against all others; where it was not run, the most accurate one.

    Args:
        found: The comparisons.
        names: Policies and baselines that one could use instead; yardsticks are none.
        where: Name of the data set for the text; empty for all questions.
    """
    policies = [name for name in names if name not in BASELINES]
    on = f"On the {found.questions} questions of {where}" if where else _on(found.questions)
    default = DEFAULT_POLICY if DEFAULT_POLICY in names else found.most_accurate(policies)
    if found.questions < MIN_QUESTIONS:
        return _open(found, None, default, on)
    top = found.most_accurate(names)
    if not found.is_better(top, default):
        top = default
    if top != default and found.is_cheaper(top, default):
        return _pair(found, "better", top, default, on)
    cheaper = sorted((n for n in names if found.is_cheaper(n, top)), key=lambda n: _place(n, found))
    for name in cheaper:
        if found.is_as_good(name, top):
            return _pair(found, "as good", name, top, on)
    if top != default:
        return _pair(found, "better", top, default, on)
    unclear = [name for name in cheaper if not found.is_better(top, name)]
    if unclear:
        return _open(found, found.most_accurate(unclear), top, on)
    return _best(found, found.most_accurate(cheaper) if cheaper else None, top, on)


def against_arms(found: Comparisons, names: Sequence[str]) -> AgainstArms | None:
    """Return the default policy against each arm; `None` where it or all arms were not measured.

    Args:
        found: The comparisons.
        names: Policies that were measured.
    """
    arms = [name for name in names if name in ARMS]
    if DEFAULT_POLICY not in names or not arms:
        return None
    best = found.rights[found.most_accurate(arms)]
    good = [
        arm
        for arm in arms
        if not is_above_zero([b - a for b, a in zip(best, found.rights[arm], strict=True)])
    ]
    cheapest = min(good, key=lambda arm: found.seconds[arm])
    return {
        "arms": {arm: list(found(DEFAULT_POLICY, arm)) for arm in arms},
        "cheapest_good": cheapest,
        "cost_ratio": _ratio(found.seconds[DEFAULT_POLICY], found.seconds[cheapest]),
    }


def points(difference: Sequence[float]) -> str:
    """Return a difference of accuracies in percentage points, with its interval."""
    return "{:+.1f} points, {:+.1f} to {:+.1f}".format(*(100 * end for end in difference))


def _on(questions: int) -> str:
    return f"On your {questions} question{'s' if questions != 1 else ''}"


def _place(name: str, found: Comparisons) -> tuple[int, float]:
    """Return the order in which what is cheaper is looked at: an arm before its own baselines."""
    if name == MAJORITY:
        return 0, 0.0
    return {"nearest": 1}.get(name, 2 if name in BASELINES else 3), found.seconds[name]


def _pair(found: Comparisons, finding: Finding, name: str, other: str, on: str) -> Verdict:
    difference = found(other, name)
    text = (
        f"{on} `{name}` is {'better than' if finding == 'better' else 'as good as'} `{other}` "
        f"({found.accuracy[name]:.1%} against {found.accuracy[other]:.1%}, difference "
        f"{points(difference)}) {_cost(found.seconds[name], found.seconds[other])}."
    )
    return _told(found, finding, name, other, text)


def _open(found: Comparisons, name: str | None, top: str, on: str) -> Verdict:
    """Return a verdict that leaves it open whether something cheaper is as good."""
    if name is None:
        text = f"{on} nothing can be told: they are too few, measure at least {MIN_QUESTIONS}."
        return _told(found, "open", top, None, text)
    few = found.questions < MIN_AS_GOOD and found(top, name).high < AS_GOOD
    why = f"{MIN_AS_GOOD} questions are needed for that" if few else "the interval is too wide"
    text = (
        f"{on} `{name}` cannot be told from `{top}` ({found.accuracy[name]:.1%} against "
        f"{found.accuracy[top]:.1%}, difference {points(found(top, name))}): {why}. `{name}` runs "
        f"{_cost(found.seconds[name], found.seconds[top])}; measure more questions."
    )
    return _told(found, "open", name, top, text)


def _best(found: Comparisons, name: str | None, top: str, on: str) -> Verdict:
    text = f"{on} `{top}` is best: {found.accuracy[top]:.1%} in {_seconds(found.seconds[top])}"
    if name is None:
        return _told(found, "best", top, None, f"{text} a question; nothing measured is cheaper.")
    text += (
        f" a question. The best that is cheaper, `{name}`, has {found.accuracy[name]:.1%} "
        f"(difference {points(found(top, name))}) {_cost(found.seconds[name], found.seconds[top])}."
    )
    return _told(found, "best", top, name, text)


def _told(found: Comparisons, finding: Finding, name: str, other: str | None, text: str) -> Verdict:
    return {
        "text": text,
        "finding": finding,
        "policy": name,
        "against": other,
        "difference": None if other is None else list(found(other, name)),
        "cost_ratio": None if other is None else _ratio(found.seconds[name], found.seconds[other]),
    }


def _ratio(seconds: float, of: float) -> float | None:
    return seconds / of if of else None


def _cost(seconds: float, other: float) -> str:
    """Return what one costs against another, in words."""
    if not seconds:
        return "without a search or a model"
    if other >= 2 * seconds:
        return f"at 1/{other / seconds:.0f} of the time"
    if other >= seconds:
        return f"at {seconds / other:.0%} of the time"
    if not other:
        return f"in {_seconds(seconds)} a question"
    return f"at {seconds / other:.1f} times the time"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
