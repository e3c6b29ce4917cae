"""The grounded head of a reward model in training: fitted on held-out questions, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rttc_graph.evaluation.scorers import choose_scorer, normalised, scorer_for
from rttc_graph.integrations.rewards.grounded.evidence_head import EvidenceHead
from rttc_graph.integrations.rewards.trained.evidence_reader import EvidenceReader, LogitsOf
from rttc_graph.integrations.rewards.trained.reward_folder import RewardBase, Speech
from rttc_graph.integrations.rewards.trained.signals import probability
from rttc_graph.protocols import NewSample
from rttc_graph.reward_training.candidate_rows import (
    CandidateRow,
    graph_candidate,
    left_out_samples,
    near_samples,
)
from rttc_graph.reward_training.evidence_answers import made_answers
from rttc_graph.reward_training.evidence_training import (
    RECALLED,
    Judged,
    ToJudge,
    head_figures,
    judge_with_samples,
    learn_head,
    learn_speech,
    left_out_answers,
    unwritten,
)
from rttc_graph.reward_training.probability_fit import fit_logit_maps

FEWEST_QUESTIONS = 20
"""Held-out questions with samples below which no head is fitted: it has 29 weights, and each
question gives some twenty answers that are much alike."""

MOST_QUESTIONS = 120
"""Held-out questions that are looked at: each takes about half a second of a core."""

_FOLDS = 5

_NOT_SAID = frozenset({"refusal", "plea", "echo", "empty", "injected"})
"""Sources of texts that are no answers, from which refusals and pleas are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMaterial:
    """What a grounded head needs beside the network."""

    unchanged: Callable[[], RewardBase]
    """Loads the encoder as it came."""
    speech_of: Callable[[str], Speech | None] = lambda fingerprint: None
    """Returns what an encoder of this fingerprint hears in a text, where that is known; it is
    learned from the answers otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head with its figures, or the reason why there is none."""

    report: dict[str, Any]
    """`questions`, `answers`, `held_out` and `kinds`; `refused` where there is no head."""
    head: EvidenceHead | None = None
    speech: Speech | None = None


def fit_evidence(
    groups: Sequence[Sequence[CandidateRow]], logits: LogitsOf, material: HeadMaterial, seed: int
) -> FittedHead:
    """Fit a head on the answers to held-out questions, or refuse it.

    Its figures are cross-fitted by question: each answer is scored by a head, and by maps without
    evidence, that saw other questions only.

    Args:
        groups: Candidates by question, none of which the network has learned from.
        logits: The network.
        material: Encoder, and what it hears.
        seed: Seed of the folds and of what is made.
    """
    chance = random.Random(seed)
    usable = [group for group in groups if group[0].get("samples")]
    chance.shuffle(usable)
    usable = usable[:MOST_QUESTIONS]
    if len(usable) < FEWEST_QUESTIONS:
        return _refused(
            f"{len(usable)} held-out questions have samples near them, {FEWEST_QUESTIONS} are "
            "needed: give more --questions or --samples"
        )
    kinds = kinds_of([question_of(group) for group in usable])
    answers = [
        _answers_to(group, usable, random.Random(f"{seed} {n}")) for n, group in enumerate(usable)
    ]
    others = [
        left_out_samples(group[0]) if kind in RECALLED else []
        for group, kind in zip(usable, kinds, strict=True)
    ]
    said = [left_out_answers(samples) for samples in others]
    base = material.unchanged()
    speech = material.speech_of(base.fingerprint) or _learned_speech(base, answers)
    reader = EvidenceReader(base, speech, logits)
    every = [[*own, *left] for own, left in zip(answers, said, strict=True)]
    before = _scores_without(usable, every, logits)
    judged: list[list[Judged]] = []
    for n, group in enumerate(usable):
        asked, chance = question_of(group), random.Random(f"{seed} {n} poison")
        shown = [(answers[n], near_samples(group[0])), (said[n], others[n])]
        first = len(answers[n])
        scores = before[n][:first], before[n][first:]
        judged.append(
            [
                row
                for (given, samples), known in zip(shown, scores, strict=True)
                for row in judge_with_samples(
                    asked, kinds[n], given, samples, reader, known, chance
                )
            ]
        )
    rows = [row for some in judged for row in some]
    if len({row.right for row in rows}) < 2:
        return _refused("all answers are right, or all are wrong")
    cross_fitted = _cross_fitted(judged)
    report = _report(len(usable), rows, cross_fitted)
    told = report["held_out"]["arms" if _is_enough(rows) else "all"]
    with_it, without = told["log_loss_grounded"], told["log_loss_before"]
    if with_it >= without:
        reason = (
            f"on held-out questions its log-loss is {with_it:.3f}, and {without:.3f} without it"
        )
        return _refused(reason, **report)
    return FittedHead(report=report, head=learn_head(rows), speech=speech)


def _refused(reason: str, **report: Any) -> FittedHead:
    return FittedHead(report={**report, "refused": reason})


def question_of(group: Sequence[CandidateRow]) -> NewSample:
    """Return the solved question of some candidates."""
    first = group[0]
    return NewSample(question=first["question"], answer=first["reference"], domain=first["domain"])


def kinds_of(rows: Sequence[NewSample]) -> list[str]:
    """Return the kinds of questions' answers: `numbers`, `choices`, `sentences` or `labels`.

    What is neither number nor choice is a sentence or a label as its whole domain is.
    """
    domains: dict[str, list[NewSample]] = {}
    for row in rows:
        domains.setdefault(row.domain, []).append(row)
    told = {name: choose_scorer(members).scorer for name, members in domains.items()}
    named = {"number": "numbers", "choice": "choices"}
    return [
        named.get(scorer_for(row), "sentences" if told[row.domain] == "sentences" else "labels")
        for row in rows
    ]


def _answers_to(
    group: Sequence[CandidateRow], groups: Sequence[Sequence[CandidateRow]], chance: random.Random
) -> list[ToJudge]:
    """Return the collected answers to a question, the nearest sample's, and made ones."""
    row, near = question_of(group), near_samples(group[0])
    found = [
        ToJudge(candidate=graph_candidate(c), source=c["source"], right=c["right"])
        for c in _kept(group)
    ]
    right = {normalised(c["answer"]): c["right"] for c in group}
    said = normalised(near[0].answer)
    if said in right:
        found.append(
            ToJudge(candidate=unwritten(near[0].answer), source="nearest", right=right[said])
        )
    if all(c["source"] != "reference" for c in group):  # there is no answer to make others of
        return found
    others = [s for g in groups if g[0]["domain"] == row.domain for s in near_samples(g[0])]
    found += [
        ToJudge(candidate=unwritten(made.text), source=made.source, right=made.right)
        for made in made_answers(row, near, others, chance)
        if right.get(normalised(made.text), made.right) == made.right
    ]
    return found


def _learned_speech(base: RewardBase, answers: Sequence[Sequence[ToJudge]]) -> Speech:
    silent = Speech(torch.zeros(2, base.model.config.hidden_size), torch.full((2,), -9.0))
    reader = EvidenceReader(base, silent, lambda pairs: [0.0] * len(pairs))
    said = [a.candidate["answer"] for some in answers for a in some if a.source not in _NOT_SAID]
    return learn_speech(reader.vectors, said)


def _scores_without(
    groups: Sequence[Sequence[CandidateRow]], answers: Sequence[Sequence[ToJudge]], logits: LogitsOf
) -> list[list[float]]:
    """Return the scores of all answers by maps that were fitted on other questions."""
    found = [
        logits([(group[0]["question"], a.candidate["answer"]) for a in some])
        for group, some in zip(groups, answers, strict=True)
    ]
    collected = [
        list(zip(_kept(group), own, strict=False))  # collected answers come first
        for group, own in zip(groups, found, strict=True)
    ]
    scores: list[list[float]] = [[] for _ in groups]
    for fold in range(_FOLDS):
        others = [pair for n, some in enumerate(collected) if n % _FOLDS != fold for pair in some]
        full, plain = fit_logit_maps([row for row, _ in others], [x for _, x in others])
        for n in range(fold, len(groups), _FOLDS):
            scores[n] = [
                probability(x, a.candidate, full, plain)
                for x, a in zip(found[n], answers[n], strict=True)
            ]
    return scores


def _kept(group: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Return the candidates that `_answers_to` begins with."""
    return [c for c in group if c["answer"].strip()]


def _cross_fitted(judged: Sequence[Sequence[Judged]]) -> list[float]:
    """Return a score of each answer by a head that saw other questions only, in order."""
    scores: dict[int, list[float]] = {}
    for fold in range(_FOLDS):
        head = learn_head(
            [row for n, some in enumerate(judged) if n % _FOLDS != fold for row in some]
        )
        for n in range(fold, len(judged), _FOLDS):
            scores[n] = [head(row.features, row.before) for row in judged[n]]
    return [score for n in range(len(judged)) for score in scores[n]]


def _report(questions: int, rows: Sequence[Judged], scores: Sequence[float]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind in sorted({row.kind for row in rows}):
        places = [n for n, row in enumerate(rows) if row.kind == kind]
        kinds[kind] = head_figures([rows[n] for n in places], [scores[n] for n in places])
    return {
        "questions": questions,
        "answers": len(rows),
        "held_out": head_figures(rows, scores),
        "kinds": kinds,
    }


def _is_enough(rows: Sequence[Judged]) -> bool:
    """Tell whether arms gave enough answers, right and wrong ones, to decide by them alone."""
    real = [row.right for row in rows if row.is_real]
    return min(real.count(True), real.count(False)) >= FEWEST_QUESTIONS // 2
