"""What else a default policy could do, worked out from the rows of an evaluation.

    python -m benchmarks.experiments.gate_ideas four-data-sets.jsonl

The file is what `rttc eval --collect-only --records` keeps, of one policy model. Without a
calibration: cascade at lower thresholds, without TTT, and ended by two arms that say the same. With
one, cross-fitted by question within each data set: the aim that `rttc calibrate` has, the highest
accuracy, and both with maps that know the arm.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rttc_graph.arms import ARMS
from rttc_graph.calibration.aims import Aim, choose, sweep
from rttc_graph.calibration.map_fitting import fold_number
from rttc_graph.calibration.proposal import cross_fitted
from rttc_graph.evaluation.evaluation_rows import RowLog
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, evaluated_questions
from rttc_graph.evaluation.replay import Arms, Gate, JudgedArm, replay
from rttc_graph.integrations.rewards.calibrated.probability_maps import logit
from rttc_graph.run.tau_r import best_candidate, is_accepted
from rttc_graph.state import Arm, Candidate
from rttc_graph.support.canonical import canonical
from rttc_graph.support.logistic import LogisticFit, fit_logistic, sigmoid

ALL: tuple[Arm, ...] = ("nearest", "rag", "ttt")
RIDGE = 1.0
"""Of the offsets of the arms: arms with few answers are taken for the others' like."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question under one idea."""

    right: float
    seconds: float


Idea = Callable[[Sequence[EvaluatedQuestion]], list[Outcome]]


def replayed(question: EvaluatedQuestion, gate: Gate) -> Outcome:
    """Return what cascade does."""
    found = replay(question.arms, "cascade", gate)
    return Outcome(found.right, found.seconds)


def plain(tau_r: float, arms: tuple[Arm, ...] = ALL) -> Idea:
    """Return cascade with raw rewards."""
    return lambda questions: [replayed(q, Gate(tau_r=tau_r, arms=arms)) for q in questions]


def ended_by_agreement(arms: Arms, tau_r: float) -> Outcome:
    """Return cascade that ends, too, where an arm says what one before it has said."""
    seconds, tried, rights = 0.0, list[Candidate](), list[bool]()
    for name in ALL:
        judged = arms[name]
        if judged.candidate is None:
            continue
        first = not any(ARMS[c["arm"]].retrieves for c in tried)
        seconds += sum(judged.work_seconds(retrieves=first))
        said = canonical(judged.candidate["answer"])
        agrees = any(said == canonical(c["answer"]) for c in tried)
        tried.append({**judged.candidate, "reward": judged.reward})
        rights.append(judged.row["right"])
        if agrees or is_accepted(judged.reward, tau_r):
            break
    best = best_candidate(tried)
    right = any(r for c, r in zip(tried, rights, strict=True) if c is best)
    return Outcome(float(right), seconds)


def known_arms(question: EvaluatedQuestion) -> list[tuple[Arm, JudgedArm, float]]:
    """Return the judged answers with their rewards."""
    return [(a, j, j.reward) for a, j in question.arms.items() if j.reward is not None]


def features(arm: Arm, reward: float) -> list[float]:
    """Return the log-odds of a raw reward, and which arm it is of."""
    return [logit(reward), *(float(arm == name) for name in ARMS)]


def fit_by_arm(questions: Sequence[EvaluatedQuestion]) -> LogisticFit:
    """Fit P(right) to raw reward and arm."""
    pairs = [
        (features(arm, reward), float(judged.stands))
        for question in questions
        for arm, judged, reward in known_arms(question)
    ]
    return fit_logistic([x for x, _ in pairs], [y for _, y in pairs], ridge=RIDGE)


def judged_by(question: EvaluatedQuestion, fit: LogisticFit) -> EvaluatedQuestion:
    """Return the question with P(right) by reward and arm."""
    arms = dict(question.arms)
    for arm, judged, reward in known_arms(question):
        terms = zip(fit.slopes, features(arm, reward), strict=True)
        arms[arm] = replace(judged, reward=sigmoid(fit.offset + sum(s * x for s, x in terms)))
    return replace(question, arms=arms)


def by_arm(questions: Sequence[EvaluatedQuestion], aim: Aim) -> list[Outcome]:
    """Return cascade with maps by arm and a gate, both found on the other fifths."""
    folds = [fold_number(f"{q.data_set}/{q.row}") for q in questions]
    inner = [fold_number(f"{q.data_set}/{q.row} again") for q in questions]
    found: dict[int, tuple[LogisticFit, Gate]] = {}
    for fold in set(folds):
        others = [(q, i) for q, f, i in zip(questions, folds, inner, strict=True) if f != fold]
        seen = [
            judged_by(q, fit)
            for part in set(inner)
            for fit in [fit_by_arm([q for q, i in others if i != part])]
            for q, i in others
            if i == part
        ]
        gate = choose(sweep([q.arms for q in seen]), aim).gate
        found[fold] = fit_by_arm([q for q, _ in others]), gate
    return [
        replayed(judged_by(q, found[fold][0]), found[fold][1])
        for q, fold in zip(questions, folds, strict=True)
    ]


def as_it_is(questions: Sequence[EvaluatedQuestion], aim: Aim) -> list[Outcome]:
    """Return cascade as `rttc eval --cross-fit` has it."""
    return [replayed(q, gate) for q, gate in cross_fitted(questions, aim)]


IDEAS: dict[str, Idea] = {
    "raw, τr 0.5 (as installed)": plain(0.5),
    "raw, τr 0.3": plain(0.3),
    "raw, τr 0.1": plain(0.1),
    "raw, τr 0.5, without TTT": plain(0.5, ("nearest", "rag")),
    "raw, τr 0.5, ends where two arms agree": lambda questions: [
        ended_by_agreement(q.arms, 0.5) for q in questions
    ],
    "calibrated (the default aim)": lambda questions: as_it_is(questions, Aim()),
    "calibrated, maps by arm": lambda questions: by_arm(questions, Aim()),
    "calibrated, --best": lambda questions: as_it_is(questions, Aim(best=True)),
    "calibrated, --best, maps by arm": lambda questions: by_arm(questions, Aim(best=True)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table: accuracy and seconds of each idea on each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("records", type=Path)
    rows = RowLog(parser.parse_args(arguments).records).load()
    [(fingerprint, _)] = Counter(found for _, found in rows.judgements).most_common(1)
    questions = evaluated_questions(rows, rows.replayable(), fingerprint)
    sets = list(dict.fromkeys(question.data_set for question in questions))
    print("| |", " | ".join(["all", "mean of the sets", *sets]), "|")
    print("| --- |" + " --- |" * (len(sets) + 2))
    for name, idea in IDEAS.items():
        found = {one: idea([q for q in questions if q.data_set == one]) for one in sets}
        every = [outcome for outcomes in found.values() for outcome in outcomes]
        shares = [fmean(o.right for o in outcomes) for outcomes in found.values()]
        cells = [shown(every), f"{fmean(shares):.1%}", *map(shown, found.values())]
        print(f"| {name} |", " | ".join(cells), "|")
    return 0


def shown(outcomes: Sequence[Outcome]) -> str:
    """Return accuracy and mean seconds."""
    return f"{fmean(o.right for o in outcomes):.1%}, {fmean(o.seconds for o in outcomes):.2f} s"


if __name__ == "__main__":
    sys.exit(main())
