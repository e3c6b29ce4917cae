"""Plans by difficulty against cascade, worked out from the rows of an evaluation.

    python -m benchmarks.experiments.plan_ideas four-data-sets.jsonl

The file is what `rttc eval --collect-only --records` keeps, of one policy model. A plan has a first
arm, bins of that answer's P(right), and for each bin the arms that follow and their τr. All of it
is fitted on four fifths of a data set for the other fifth, as are the maps to P(right): each bin
gets what has the highest accuracy less a price for the seconds, and an aim chooses the price and
the first arm. A bin costs nothing to know, since the first answer is judged anyway.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np

from rttc_graph.calibration.map_fitting import FittedCalibration, fold_number
from rttc_graph.calibration.proposal import held_out_rewards, judged_by
from rttc_graph.evaluation.baselines import BASELINES
from rttc_graph.evaluation.evaluation_rows import RowLog
from rttc_graph.evaluation.intervals import is_above_zero, paired_difference
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, evaluated_questions
from rttc_graph.evaluation.replay import oracle
from rttc_graph.run.tau_r import is_unanswered

Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Choice = tuple[tuple[str, ...], float]
"""Arms that follow the first, and τr."""

ARMS = ("nearest", "rag", "ttt")
FIRST = ("nearest", "rag")
PRICES = (0.0, 0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
"""Accuracy that a second is worth."""
GRID = tuple(step / 20 for step in range(21))
BISECTIONS = 12


@dataclass(frozen=True, slots=True)
class Table:
    """Rewards, rights and seconds of each arm; one row for each question."""

    reward: Mapping[str, Values]
    right: Mapping[str, Values]
    seconds: Mapping[str, tuple[Values, Values]]
    """Seconds of an arm that searches for its samples, and of one that has them."""

    @classmethod
    def of(cls, questions: Sequence[EvaluatedQuestion]) -> Table:
        """Return the table of some questions; an arm without an answer is never taken."""
        reward: dict[str, Values] = {}
        right: dict[str, Values] = {}
        seconds: dict[str, tuple[Values, Values]] = {}
        for arm in ARMS:
            judged = [question.arms[arm] for question in questions]
            told = [
                -np.inf if j.candidate is None else -0.5 if is_unanswered(j.candidate) else j.reward
                for j in judged
            ]
            reward[arm] = np.array(told, dtype=float)
            right[arm] = np.array([j.row["right"] for j in judged], dtype=float)
            first, later = (
                np.array([sum(j.work_seconds(retrieves=searches)) for j in judged], dtype=float)
                for searches in (True, False)
            )
            seconds[arm] = first, later
        return cls(reward, right, seconds)

    def run(self, arms: Sequence[str], tau_r: float) -> tuple[Values, Values]:
        """Return rights and seconds of the arms in order, up to the first reward of τr."""
        best = np.full_like(self.reward[arms[0]], -np.inf)
        right, seconds = np.zeros_like(best), np.zeros_like(best)
        going = np.ones(len(best), dtype=bool)
        for place, arm in enumerate(arms):
            seconds += np.where(going, self.seconds[arm][min(place, 1)], 0.0)
            better = going & (self.reward[arm] > best)
            right = np.where(better, self.right[arm], right)
            best = np.where(better, self.reward[arm], best)
            going &= best < tau_r
        return right, seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """A first arm, and what follows in each bin of its answer's P(right)."""

    first: str
    edges: Values
    choices: tuple[Choice, ...]

    def run(self, table: Table) -> tuple[Values, Values]:
        """Return rights and seconds."""
        bins = np.digitize(table.reward[self.first], self.edges)
        outcomes = [table.run((self.first, *arms), tau_r) for arms, tau_r in self.choices]
        right, seconds = (
            np.choose(bins, [outcome[part] for outcome in outcomes]) for part in (0, 1)
        )
        return right, seconds


class Fitting:
    """All plans of one table; what each choice does is worked out once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._outcomes = {first: list(self._every(first)) for first in FIRST}

    def _every(self, first: str) -> Iterator[tuple[Choice, Values, Values]]:
        rest = ARMS[ARMS.index(first) + 1 :]
        for size in range(len(rest) + 1):
            for arms in combinations(rest, size):
                for tau_r in GRID if arms else (0.0,):
                    yield (arms, tau_r), *self.table.run((first, *arms), tau_r)

    def plan(self, first: str, bins: int, price: float) -> Plan:
        """Return the plan that is worth most at a price for a second."""
        known = self.table.reward[first]
        edges = np.quantile(known, [n / bins for n in range(1, bins)])
        place = np.digitize(known, edges)

        def choice(number: int) -> Choice:
            mine = place == number
            if not mine.any():
                return (), 0.0
            return max(
                self._outcomes[first],
                key=lambda o: (
                    o[1][mine].mean() - price * o[2][mine].mean(),
                    -o[2][mine].mean(),
                ),
            )[0]

        return Plan(first, edges, tuple(map(choice, range(bins))))

    def plans(self, bins: int) -> list[tuple[Plan, Values, float]]:
        """Return plans at all prices, with rights and mean seconds."""
        found = [self.plan(first, bins, price) for first, price in product(FIRST, PRICES)]
        outcomes = [(plan, *plan.run(self.table)) for plan in found]
        return [(plan, right, float(seconds.mean())) for plan, right, seconds in outcomes]

    def worth_most(self, bins: int, price: float) -> Plan:
        """Return the better of the plans with either first arm."""

        def worth(plan: Plan) -> float:
            right, seconds = plan.run(self.table)
            return float(right.mean() - price * seconds.mean())

        return max((self.plan(first, bins, price) for first in FIRST), key=worth)


def cheapest_within_an_error(found: Sequence[tuple[Plan, Values, float]]) -> Plan:
    """Return the cheapest plan within one standard error of the most accurate one."""
    best = max(found, key=lambda p: (p[1].mean(), -p[2]))
    good = [p for p in found if not is_above_zero(list(best[1] - p[1]))]
    return min(good, key=lambda p: p[2])[0]


def most_accurate(found: Sequence[tuple[Plan, Values, float]]) -> Plan:
    """Return the most accurate plan; of equals the cheapest."""
    return max(found, key=lambda p: (p[1].mean(), -p[2]))[0]


@dataclass(frozen=True, slots=True)
class Fold:
    """Four folds of a data set, with rewards that did not see them, and the fifth."""

    fitting: Fitting
    blind: bool
    """Whether rewards tell nothing; then only single arms are tried."""
    asked: Sequence[EvaluatedQuestion]


Outcomes = dict[tuple[str, str], tuple[float, float]]
"""Right and seconds by data set and row."""


def folds_of(questions: Sequence[EvaluatedQuestion]) -> list[Fold]:
    """Return each fold of each data set; maps are fitted on all data sets together."""
    numbers = [fold_number(f"{q.data_set}/{q.row}") for q in questions]
    found: list[Fold] = []
    for fold in sorted(set(numbers)):
        placed = list(zip(questions, numbers, strict=True))
        calibration, seen = held_out_rewards([q for q, n in placed if n != fold])
        asked = [judged_by(q, calibration) for q, n in placed if n == fold]
        for name in dict.fromkeys(q.data_set for q in asked):
            mine = [q for q in seen if q.data_set == name]
            found.append(
                Fold(
                    Fitting(Table.of(mine)),
                    tells_nothing(calibration, mine),
                    [q for q in asked if q.data_set == name],
                )
            )
    return found


def tells_nothing(found: FittedCalibration, questions: Sequence[EvaluatedQuestion]) -> bool:
    """Tell whether rewards say no more than the share of right answers, in all domains."""
    return all(found.map_for(question.domain).tells_nothing for question in questions)


def planned(folds: Sequence[Fold], choose: Callable[[Fold], Plan]) -> Outcomes:
    """Return what plans do that are chosen on the other folds."""
    found: Outcomes = {}
    for fold in folds:
        right, seconds = choose(fold).run(Table.of(fold.asked))
        for question, r, s in zip(fold.asked, right.tolist(), seconds.tolist(), strict=True):
            found[question.data_set, question.row] = r, s
    return found


def by_aim(
    bins: int, aim: Callable[[Sequence[tuple[Plan, Values, float]]], Plan]
) -> Callable[[Fold], Plan]:
    """Return the choice by an aim; a blind judge gets one arm."""

    def choose(fold: Fold) -> Plan:
        if fold.blind:
            alone = [Plan(first, np.array([]), (((), 0.0),)) for first in FIRST]
            outcomes = [(plan, *plan.run(fold.fitting.table)) for plan in alone]
            return cheapest_within_an_error([(p, r, float(s.mean())) for p, r, s in outcomes])
        return aim(fold.fitting.plans(bins))

    return choose


def within(folds: Sequence[Fold], bins: int, seconds: float) -> Outcomes:
    """Return what plans do at the lowest price, of all data sets, that keeps a mean of seconds.

    The price is found by bisection on the questions that plans are fitted on.
    """

    def spent(price: float) -> float:
        found = [f.fitting.worth_most(bins, price).run(f.fitting.table)[1] for f in folds]
        return float(np.concatenate(found).mean())

    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= seconds else (middle, high)
    return planned(folds, lambda fold: fold.fitting.worth_most(bins, high))


def fixed(questions: Sequence[EvaluatedQuestion]) -> dict[str, Outcomes]:
    """Return the baselines, each arm alone and the best arm in hindsight."""
    found: dict[str, Outcomes] = {}
    for name in BASELINES:
        runs = {(q.data_set, q.row): q.baselines[name] for q in questions if name in q.baselines}
        found[name] = {key: (run.right, run.seconds) for key, run in runs.items()}
    for arm in ARMS:
        found[f"always {arm}"] = {
            (q.data_set, q.row): (float(q.arms[arm].row["right"]), q.arms[arm].alone_seconds)
            for q in questions
        }
    hindsight = {(q.data_set, q.row): oracle(q.arms) for q in questions}
    found["oracle"] = {key: (run.right, run.seconds) for key, run in hindsight.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table: accuracy and seconds, and the difference to one bin."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("records", type=Path)
    rows = RowLog(parser.parse_args(arguments).records).load()
    [(fingerprint, _)] = Counter(found for _, found in rows.judgements).most_common(1)
    questions = evaluated_questions(rows, rows.replayable(), fingerprint)
    folds = folds_of(questions)
    found = fixed(questions)
    for bins in (1, 2, 3, 4):
        found[f"{bins} bins, default aim"] = planned(folds, by_aim(bins, cheapest_within_an_error))
    for bins in (1, 2, 3, 4):
        found[f"{bins} bins, most accurate"] = planned(folds, by_aim(bins, most_accurate))
    for bins, seconds in product((1, 3), (1.0, 2.0, 3.0)):
        found[f"{bins} bins, {seconds:g} s in the mean"] = within(folds, bins, seconds)
    sets = list(dict.fromkeys(question.data_set for question in questions))
    print("| |", " | ".join(["all", "against 1 bin, default aim (95 %)", *sets]), "|")
    print("| --- |" + " --- |" * (len(sets) + 2))
    for name, outcomes in found.items():
        against = differs(outcomes, found["1 bins, default aim"])
        cells = [shown(outcomes), against, *(shown(outcomes, of=one) for one in sets)]
        print(f"| {name} |", " | ".join(cells), "|")
    return 0


def shown(outcomes: Outcomes, of: str = "") -> str:
    """Return accuracy and mean seconds, of all questions or of a data set."""
    some = [outcome for key, outcome in outcomes.items() if of in ("", key[0])]
    right, seconds = np.array(some).mean(axis=0).tolist()
    return f"{right:.1%}, {seconds:.2f} s"


def differs(ours: Outcomes, theirs: Outcomes) -> str:
    """Return the difference of the accuracies in points, with its interval."""
    pairs = [(ours[key][0], theirs[key][0]) for key in ours]
    found = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * end for end in found))


if __name__ == "__main__":
    sys.exit(main())
