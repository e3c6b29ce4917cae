"""Answers with what the samples say for them, and the grounded head that is learned from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from rttc_graph.arms import ARMS, PLAIN
from rttc_graph.integrations.rewards.grounded.evidence import FEATURES
from rttc_graph.integrations.rewards.grounded.evidence_head import EvidenceHead
from rttc_graph.integrations.rewards.trained.evidence_reader import EvidenceReader
from rttc_graph.integrations.rewards.trained.reward_folder import Speech
from rttc_graph.protocols import NewSample, RewardRequest, reward_requests
from rttc_graph.reward_training.candidate_rows import graph_sample
from rttc_graph.reward_training.evidence_answers import poisoned, refusal
from rttc_graph.reward_training.grounded_fit import fit_direction, fit_evidence_head
from rttc_graph.reward_training.reward_metrics import auc
from rttc_graph.reward_training.wordings import with_plea
from rttc_graph.state import Candidate

WRITTEN_WEIGHT, TAKEN_WEIGHT = 3.0, 2.0
"""Weights of an answer that an arm's model has written, and of one that an arm took from samples;
one that was made has 1."""

POISONED = 0.25
"""Share of the questions that are judged once more with a sample that speaks to the judge."""

POISONED_MARK = "*"
"""Behind the source of an answer that was judged with such a sample."""

LEFT_OUT = "left-out"
"""Source of an answer that samples give to a question whose own answer was taken out of them."""

RECALLED = frozenset({"labels", "sentences", "facts"})
"""Kinds whose answers are in the samples or nowhere."""

_LEFT_OUT_ANSWERS = 2

_MOST_SAID = 3_000
"""Answers from which refusals and pleas are told apart."""

_FOREIGN = list(FEATURES).index("foreign")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToJudge:
    """One answer, and whether it is right."""

    candidate: Candidate
    source: str
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer with its features."""

    set: str
    """Domain or data set."""
    kind: str
    """Kind of the answers: `labels`, `sentences` and so on."""
    question: str
    answer: str
    source: str
    right: bool
    features: list[float]
    before: float
    """Score of the same reward model without evidence."""

    @property
    def is_real(self) -> bool:
        """Whether an arm gave it."""
        return self.source in ARMS


def unwritten(text: str) -> Candidate:
    """Return an answer that no model has written: it has no log-probability."""
    return {
        "arm": PLAIN,
        "answer": text,
        "reward": None,
        "seconds": 0.0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "trained_tokens": 0,
        "mean_logprob": None,
        "finish_reason": "stop",
        "adapter": None,
    }


def left_out_answers(others: Sequence[NewSample]) -> list[ToJudge]:
    """Return what samples say that do not answer a question rightly, the nearest first."""
    texts = dict.fromkeys(sample.answer for sample in others[:_LEFT_OUT_ANSWERS])
    return [ToJudge(candidate=unwritten(text), source=LEFT_OUT, right=False) for text in texts]


def judge_with_samples(
    row: NewSample,
    kind: str,
    answers: Sequence[ToJudge],
    samples: Sequence[NewSample],
    reader: EvidenceReader,
    before: Sequence[float],
    chance: random.Random,
) -> list[Judged]:
    """Return answers to one question with their features; none where no sample is evidence.

    Args:
        row: The question; its domain is the set.
        kind: Kind of its answers.
        answers: Answers that are judged.
        samples: Samples near the question, nearest first.
        reader: Reads the evidence.
        before: Scores of the answers without evidence.
        chance: Decides whether they are judged with a poisoned sample too, which speaks for a
            neighbour's answer among them.
    """
    wrong = next((a.candidate["answer"] for a in answers if a.source == "neighbour"), "")
    shown = [(list(samples), "")]
    if wrong and chance.random() < POISONED:
        shown.append(([poisoned(row, wrong, chance), *samples], POISONED_MARK))
    judged: list[Judged] = []
    for evidence, mark in shown:
        requests = _requests([a.candidate for a in answers], evidence[: max(1, len(samples))])
        features = reader.features([(row.question, request) for request in requests])
        judged += [
            Judged(
                set=row.domain,
                kind=kind,
                question=row.question,
                answer=a.candidate["answer"],
                source=a.source + mark,
                right=a.right,
                features=f,
                before=b,
            )
            for a, f, b in zip(answers, features, before, strict=True)
            if f is not None
        ]
    return judged


def _requests(
    candidates: Sequence[Candidate], evidence: Sequence[NewSample]
) -> list[RewardRequest]:
    return reward_requests(candidates, samples=[graph_sample(sample) for sample in evidence])


def learn_head(
    rows: Sequence[Judged], share_of: Callable[[Judged], float] = lambda row: 1.0
) -> EvidenceHead:
    """Return the head that answers teach, all sets alike, each answer as far as the head holds.

    Args:
        rows: Answers, right and wrong ones among them.
        share_of: Weight of an answer's set.
    """
    held = [1 - row.features[_FOREIGN] for row in rows]
    weights = _weights(rows, share_of)
    return fit_evidence_head(
        [row.features for row in rows],
        [row.right for row in rows],
        [weight * share for weight, share in zip(weights, held, strict=True)],
    )


def _weights(rows: Sequence[Judged], share_of: Callable[[Judged], float]) -> list[float]:
    own = [_weight(row.source.rstrip(POISONED_MARK)) for row in rows]
    totals: dict[str, float] = {}
    for row, weight in zip(rows, own, strict=True):
        totals[row.set] = totals.get(row.set, 0.0) + weight
    return [weight / totals[row.set] * share_of(row) for row, weight in zip(rows, own, strict=True)]


def _weight(source: str) -> float:
    if source not in ARMS:
        return 1.0
    return WRITTEN_WEIGHT if ARMS[source].own.asks_model else TAKEN_WEIGHT


def head_figures(rows: Sequence[Judged], scores: Sequence[float]) -> dict[str, Any]:
    """Return AUC and log-loss, before and with the evidence, of all answers and of arms'.

    Args:
        rows: Answers, with their scores without evidence.
        scores: Those with it.
    """
    alone = [row.before for row in rows]
    found: dict[str, Any] = {"answers": len(rows)}
    real = [n for n, row in enumerate(rows) if row.is_real]
    for name, places in (("all", range(len(rows))), ("arms", real)):
        right = [rows[n].right for n in places]
        found[name] = {"answers": len(right), "right": sum(right)}
        for which, told in (("before", alone), ("grounded", scores)):
            values = [told[n] for n in places]
            found[name][f"auc_{which}"] = auc(values, right)
            found[name][f"log_loss_{which}"] = _log_loss(values, right)
    return found


def _log_loss(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    if not right:
        return None
    values = torch.tensor(scores).clamp(1e-4, 1 - 1e-4)
    return float(torch.nn.functional.binary_cross_entropy(values, torch.tensor(right).float()))


def learn_speech(
    vectors: Callable[[Sequence[str]], torch.Tensor], answers: Sequence[str], seed: int = 0
) -> Speech:
    """Return what tells refusals and pleas from answers.

    Args:
        vectors: Texts to their vectors.
        answers: Right and wrong ones that neither decline nor speak to a judge.
        seed: Seed of the refusals and pleas.
    """
    chance = random.Random(seed)
    said = list(dict.fromkeys(answers))
    chance.shuffle(said)
    said = said[:_MOST_SAID]
    refusals = sorted({refusal(chance) for _ in range(300)})
    row = NewSample(question="", answer="", domain="")
    pleas = sorted({with_plea("", chance) for _ in range(450)})
    pleas += sorted({with_plea(chance.choice(said), chance) for _ in range(350)})
    pleas += sorted({poisoned(row, chance.choice(said), chance).answer for _ in range(150)})
    fits = [
        fit_direction(
            cast("list[list[float]]", vectors([*those, *others]).tolist()),
            [True] * len(those) + [False] * len(others),
        )
        for those, others in ((refusals, [*said, *pleas[:300]]), (pleas, [*said, *refusals]))
    ]
    return Speech(
        torch.tensor([weight for weight, _ in fits]), torch.tensor([bias for _, bias in fits])
    )
