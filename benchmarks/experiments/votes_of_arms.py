"""Votes in which answers of arms and draws of a panel count together, from recorded rows.

    python -m benchmarks.experiments.votes_of_arms four-data-sets.jsonl

The file has rows of arms and panels of the same questions, of one policy model (`rttc eval
--collect-only --records FILE`, once with arms and once with `mixed@8:direct+rag`). Each source of
answers gets its own map from reward to P(right) for each data set, fitted on four fifths of the
questions for the other fifth; the vote is that of `weighted`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

from rttc_graph.calibration.map_fitting import FOLDS, fold_number
from rttc_graph.evaluation.evaluation_rows import EvaluationRows, RowLog, sample_of
from rttc_graph.evaluation.intervals import paired_difference
from rttc_graph.evaluation.scorers import is_right
from rttc_graph.integrations.rewards.calibrated.probability_maps import logit
from rttc_graph.search.answer_votes import read_vote
from rttc_graph.search.panel import Panel
from rttc_graph.search.weighted import Weighted
from rttc_graph.state import Drawn
from rttc_graph.support.logistic import fit_logistic, sigmoid

Question = tuple[str, str]
"""Data set, and content hash of the row."""

ARMS = ("nearest", "rag", "ttt")
VOTES: Mapping[str, tuple[str, ...]] = {
    **{f"arm {arm}": (f"arm {arm}",) for arm in ARMS},
    "draws: direct, rag": ("direct", "rag"),
    "draws: rag": ("rag",),
    "arm nearest, draws: rag": ("arm nearest", "rag"),
    "arm nearest, draws: direct, rag": ("arm nearest", "direct", "rag"),
    "arms nearest, ttt": ("arm nearest", "arm ttt"),
    "arms nearest, rag, ttt": ("arm nearest", "arm rag", "arm ttt"),
    "all of them": ("arm nearest", "arm ttt", "direct", "rag"),
}
"""Votes by name, each with the sources of its answers."""


class Judged:
    """Answers to all questions by source, with rewards as P(right) by maps of other questions."""

    def __init__(self, rows: EvaluationRows) -> None:
        [(fingerprint, _)] = Counter(found for _, found in rows.panel_judgements).most_common(1)
        self.answers: dict[Question, list[tuple[str, Drawn]]] = {}
        self.samples = {(key.data_set, key.row): sample_of(row) for key, row in rows.panels.items()}
        for key, panel in rows.panels.items():
            rewards = rows.panel_judgements[key, fingerprint]["rewards"]
            found = [
                (one["proposer"], Drawn({**one, "reward": reward}))
                for one, reward in zip(panel["drawn"], rewards, strict=True)
            ]
            self.answers[key.data_set, key.row] = [*found]
        for key, row in rows.rows.items():
            question = key.data_set, key.row
            judged = rows.judgements.get((key, fingerprint))
            if key.policy in ARMS and question in self.answers and row["candidates"] and judged:
                text = row["candidates"][-1]["answer"]
                one: Drawn = {
                    **self.answers[question][0][1],
                    "proposer": key.policy,
                    "text": text,
                    "vote": read_vote(text, finish_reason="stop", numeric=False),
                    "reward": judged["reward"],
                    "shown": [],
                }
                self.answers[question].append((f"arm {key.policy}", one))
        self._calibrate()

    def right(self, question: Question, text: str) -> bool:
        """Tell whether an answer is right."""
        return is_right(text, self.samples[question])

    def _calibrate(self) -> None:
        pairs: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
        for question, answers in self.answers.items():
            for source, one in answers:
                if one["reward"] is not None:
                    right = float(self.right(question, one["text"]))
                    fold = fold_number(question[1])
                    pairs[question[0], source].append((fold, logit(one["reward"]), right))
        maps = {
            (*name, fold): _map([pair[1:] for pair in some if pair[0] != fold])
            for name, some in pairs.items()
            for fold in range(FOLDS)
        }
        for question, answers in self.answers.items():
            fold = fold_number(question[1])
            for source, one in answers:
                if one["reward"] is not None:
                    one["reward"] = maps[question[0], source, fold](logit(one["reward"]))

    def vote(self, sources: tuple[str, ...]) -> dict[Question, float]:
        """Return for each question whether the vote of these sources is right."""
        found: dict[Question, float] = {}
        for question, answers in self.answers.items():
            some = [one for source, one in answers if source in sources and one["text"].strip()]
            if not some:
                found[question] = 0.0
                continue
            names = tuple(dict.fromkeys(one["proposer"] for one in some))
            panel = Panel(size=len(some), proposers=names, drawn=tuple(some), calibrated=True)
            kept = some[Weighted().choose(panel).place]["text"]
            found[question] = float(self.right(question, kept))
        return found


def _map(pairs: list[tuple[float, float]]) -> Callable[[float], float]:
    """Return Platt's map of scores to P(right); a constant where all are right, or none."""
    share = fmean(right for _, right in pairs)
    if share in (0.0, 1.0):
        return lambda _: share
    fit = fit_logistic([[score] for score, _ in pairs], [right for _, right in pairs], ridge=1.0)
    return lambda score: sigmoid(fit.slopes[0] * score + fit.offset)


def main(arguments: list[str] | None = None) -> int:
    """Print a Markdown table: accuracy, and the difference to the arm nearest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("records", type=Path)
    judged = Judged(RowLog(parser.parse_args(arguments).records).load())
    sets = list(dict.fromkeys(data_set for data_set, _ in judged.answers))
    found = {name: judged.vote(sources) for name, sources in VOTES.items()}
    found["any of them"] = {
        question: float(any(judged.right(question, one["text"]) for _, one in answers))
        for question, answers in judged.answers.items()
    }
    baseline = found["arm nearest"]
    print("| vote of |", " | ".join(["all", "against the arm nearest (95 %)", *sets]), "|")
    print("| --- |" + " --- |" * (len(sets) + 2))
    for name, rights in found.items():
        difference = paired_difference(
            [*rights.values()], [baseline[question] for question in rights]
        )
        cells = [
            f"{fmean(rights.values()):.1%}",
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * end for end in difference)),
            *(
                f"{fmean(right for key, right in rights.items() if key[0] == one):.0%}"
                for one in sets
            ),
        ]
        print(f"| {name} |", " | ".join(cells), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
