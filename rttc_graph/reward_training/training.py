"""Candidates to a reward-model folder: split, learn, calibrate, measure, write."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.rewards.trained.evidence_reader import LogitsOf
from rttc_graph.integrations.rewards.trained.head_learning import (
    HeadLearned,
    HeadSettings,
    learn_head,
)
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.network_learning import (
    Example,
    Learned,
    LearnProgress,
    LearnSettings,
    learn,
)
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    add_speech,
    load_network,
    new_network,
    save_weights,
)
from rttc_graph.integrations.rewards.trained.reward_spec import (
    CARD_FILE,
    Backbone,
    RewardSpec,
    read_spec,
)
from rttc_graph.integrations.rewards.trained.signals import probability
from rttc_graph.integrations.rewards.trained.token_pairs import RewardPairs
from rttc_graph.reward_training.candidate_rows import CandidateRow, graph_candidate
from rttc_graph.reward_training.card import NO_ENCODER, NOT_ASKED_FOR, Licenses, model_card
from rttc_graph.reward_training.evidence_fit import FittedHead, HeadMaterial, fit_evidence
from rttc_graph.reward_training.probability_fit import fit_logit_maps
from rttc_graph.reward_training.reward_metrics import RewardMetrics, reward_metrics
from rttc_graph.reward_training.wordings import reworded
from rttc_graph.support.named_files import write_file

_PASS = 32
"""Pairs scored at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of training a reward model."""

    name: str
    backbone: Backbone = "towers"
    base: str = "all-minilm-l6-v2"
    rank: int = 16
    alpha: float = 32.0
    hidden: int = 64
    max_tokens: int = 384
    train_tokens: int = 192
    """Longest pair while learning; longer ones are cut as in use, only earlier."""
    held_out: float = 0.1
    """Share of the questions that decide when to stop."""
    held_out_answered: float = 0.3
    """Share held out of the questions that the policy model answered; they also fit the
    calibration."""
    learn: LearnSettings = field(default_factory=LearnSettings)
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigurationError: Says which setting is out of its bounds.
        """
        for name in ("held_out", "held_out_answered"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be within 0 and 1")
        for name in ("rank", "hidden", "max_tokens", "train_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training."""

    folder: Path
    spec: RewardSpec
    learned: Learned
    head: HeadLearned
    held_out: RewardMetrics
    """Metrics of the policy model's answers to held-out questions, or of all answers if it gave
    none."""


MOST_WRONG = 40
"""Generated answers of which at least one must be right, or there is nothing to learn from them."""


def check_right(rows: Sequence[CandidateRow]) -> None:
    """Do nothing if some answer that the policy model gave is right, or it gave few.

    Raises:
        RewardModelError: None of `MOST_WRONG` or more is right: the judge would learn that the
            model is always wrong, whatever it says.
    """
    made = [row for row in rows if row["source"] in ARMS]
    if len(made) >= MOST_WRONG and not any(row["right"] for row in made):
        shown = made[0]
        raise RewardModelError(
            f"not one of {len(made)} answers of the policy model is right, for example "
            f"{shown['answer'][:80]!r} for {shown['reference'][:80]!r}: nothing can be learnt. If "
            "they are right in other words, name a scorer with --scorer (sentences, contains); if "
            "they are wrong, take a stronger --model, samples that help (--samples), or --arms none"
        )


def train_reward(
    base: RewardBase,
    rows: Sequence[CandidateRow],
    settings: TrainSettings,
    folder: Path,
    *,
    material: HeadMaterial | None = None,
    licenses: Licenses | None = None,
    on_progress: Callable[[LearnProgress], None],
) -> TrainResult:
    """Train a reward model and write its folder; blocks, so it belongs on a thread or in a lane.

    Args:
        base: The backbone.
        rows: Candidates.
        settings: How they are learned.
        folder: Written at the end.
        material: For the head that judges where samples are in hand; `None` for no such head.
        licenses: For the card.
        on_progress: Called after each step.

    Raises:
        ConfigurationError: There is too little to learn from.
        RewardModelError: The loss is not finite.
    """
    began = time.monotonic()
    train, held = split_groups(rows, settings)
    spec = _spec(base, settings)
    torch.manual_seed(settings.learn.seed)
    network = new_network(base, spec)
    pairs = base.pairs(settings.train_tokens, spec.backbone)
    learned = learn(
        network,
        [_examples(pairs, group) for group in train],
        [_examples(pairs, group) for group in held],
        settings.learn,
        on_progress=on_progress,
    )
    network.train(False)
    head = polish(network, base, train, held, settings, on_progress=on_progress)
    judged = [row for group in held for row in group]
    logits_of = partial(text_logits, network, base.pairs(settings.max_tokens, spec.backbone))
    logits = network_logits(logits_of, judged)
    full, plain = fit_logit_maps(judged, logits)
    spec = replace(spec, with_signals=full, without_signals=plain)
    measured = _held_out_figures(spec, judged, logits)
    fitted = (
        fit_evidence(held, logits_of, material, settings.learn.seed)
        if material is not None
        else FittedHead(report={"refused": _why_no_head(settings)})
    )
    training = _training(settings, train, held, learned, head, time.monotonic() - began)
    training["held_out_answers"] = dict(measured)
    training["held_out_by_domain"] = _figures_by_domain(spec, judged, logits)
    training["evidence"] = fitted.report
    training["licenses"] = asdict(licenses or Licenses())
    spec = replace(spec, training=training, evidence=fitted.head)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder)
    if fitted.speech is not None:
        add_speech(fitted.speech, folder)
    write_file(folder / CARD_FILE, model_card(spec))
    spec.write(folder)
    return TrainResult(folder=folder, spec=spec, learned=learned, head=head, held_out=measured)


def _why_no_head(settings: TrainSettings) -> str:
    return NO_ENCODER if settings.backbone == "causal" else NOT_ASKED_FOR


def polish(
    network: RewardNetwork,
    base: RewardBase,
    train: Sequence[Sequence[CandidateRow]],
    held: Sequence[Sequence[CandidateRow]],
    settings: TrainSettings,
    *,
    on_progress: Callable[[LearnProgress], None],
) -> HeadLearned:
    """Train the head alone, with other wordings added to every question's answers."""
    pairs = base.pairs(settings.max_tokens, network.backbone)
    chance = random.Random(settings.learn.seed)
    return learn_head(
        network,
        [[*_examples(pairs, group), *_reworded(pairs, group, chance)] for group in train],
        [[*_examples(pairs, group), *_reworded(pairs, group, chance)] for group in held],
        settings.head,
        on_progress=on_progress,
    )


def refit(base: RewardBase, rows: Sequence[CandidateRow], folder: Path) -> RewardMetrics:
    """Fit the map to P(right) of a reward-model folder anew, on other answers; blocks.

    Args:
        base: The folder's backbone.
        rows: Answers of the policy model to questions that the network has not learned from.
        folder: Its specification and model card are written anew, the weights stay.

    Raises:
        ConfigurationError: The folder is none, or for another backbone.
        RewardModelError: The weights are damaged.
    """
    spec = read_spec(folder)
    network = load_network(folder, spec, base)
    logits_of = partial(text_logits, network, base.pairs(spec.max_tokens, spec.backbone))
    logits = network_logits(logits_of, rows)
    full, plain = fit_logit_maps(rows, logits)
    spec = replace(spec, with_signals=full, without_signals=plain)
    measured = _held_out_figures(spec, rows, logits)
    by_domain = _figures_by_domain(spec, rows, logits)
    news = {"held_out_answers": dict(measured), "held_out_by_domain": by_domain}
    spec = replace(spec, training=spec.training | news)
    write_file(folder / CARD_FILE, model_card(spec))
    spec.write(folder)
    return measured


def split_groups(
    rows: Sequence[CandidateRow], settings: TrainSettings
) -> tuple[list[list[CandidateRow]], list[list[CandidateRow]]]:
    """Return the candidates by question: to learn from, and held out, of every domain some.

    Raises:
        ConfigurationError: There are fewer than two questions with right and wrong answers.
    """
    groups: dict[str, list[CandidateRow]] = {}
    for row in sorted(rows, key=lambda row: row["key"]):
        groups.setdefault(row["group"], []).append(row)
    strata: dict[tuple[str, bool], list[list[CandidateRow]]] = {}
    for name in sorted(groups):
        group = groups[name]
        answered = any(row["source"] in ARMS for row in group)
        strata.setdefault((group[0]["domain"], answered), []).append(group)
    chance = random.Random(settings.learn.seed)
    train: list[list[CandidateRow]] = []
    held: list[list[CandidateRow]] = []
    for (_, answered), members in strata.items():
        chance.shuffle(members)
        share = settings.held_out_answered if answered else settings.held_out
        cut = math.ceil(len(members) * share) if len(members) > 1 else 0
        held += members[:cut]
        train += members[cut:]
    if not train or not held or not any(r["right"] for g in train for r in g):
        raise ConfigurationError(
            f"{len(groups)} questions are too few to train on: give at least two for each domain"
        )
    return train, held


def network_logits(logits_of: LogitsOf, rows: Sequence[CandidateRow]) -> list[float]:
    """Return the network's logit for each row, in order."""
    return logits_of([(row["question"], row["answer"]) for row in rows])


@torch.inference_mode()
def text_logits(
    network: RewardNetwork, pairs: RewardPairs, texts: Sequence[tuple[str, str]]
) -> list[float]:
    """Return the network's logit for each question and answer, in order; like lengths together."""
    encoded = [pairs.encode(question, answer) for question, answer in texts]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
    logits = [0.0] * len(texts)
    for first in range(0, len(order), _PASS):
        picked = order[first : first + _PASS]
        found = network([encoded[i] for i in picked]).tolist()
        for index, logit in zip(picked, found, strict=True):
            logits[index] = float(logit)
    return logits


def _examples(pairs: RewardPairs, group: Sequence[CandidateRow]) -> list[Example]:
    return [
        Example(
            pairs.encode(r["question"], r["answer"]),
            r["right"],
            is_reference=r["source"] == "reference",
        )
        for r in group
    ]


def _reworded(
    pairs: RewardPairs, group: Sequence[CandidateRow], chance: random.Random
) -> list[Example]:
    """Return the group's first right answer and some wrong ones in other words."""
    right = [row["answer"] for row in group if row["right"] and row["answer"].strip()]
    wrong = [row["answer"] for row in group if not row["right"] and row["answer"].strip()]
    question = group[0]["question"]
    found = reworded(question, right[:1], wrong, chance)
    return [Example(pairs.encode(question, text), right=is_right) for text, is_right in found]


def _spec(base: RewardBase, settings: TrainSettings) -> RewardSpec:
    return RewardSpec(
        name=settings.name,
        backbone=settings.backbone,
        base=settings.base,
        base_fingerprint=base.fingerprint,
        rank=settings.rank,
        alpha=settings.alpha,
        hidden=settings.hidden,
        max_tokens=settings.max_tokens,
    )


def _held_out_figures(
    spec: RewardSpec, rows: Sequence[CandidateRow], logits: Sequence[float]
) -> RewardMetrics:
    judged = [(r, x) for r, x in zip(rows, logits, strict=True) if r["source"] in ARMS]
    judged = judged or list(zip(rows, logits, strict=True))
    scores = [
        probability(logit, graph_candidate(row), spec.with_signals, spec.without_signals)
        for row, logit in judged
    ]
    kept = [row for row, _ in judged]
    return reward_metrics(scores, [r["right"] for r in kept], [r["group"] for r in kept])


def _figures_by_domain(
    spec: RewardSpec, rows: Sequence[CandidateRow], logits: Sequence[float]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for domain in sorted({row["domain"] for row in rows}):
        place = [n for n, row in enumerate(rows) if row["domain"] == domain]
        measured = _held_out_figures(spec, [rows[n] for n in place], [logits[n] for n in place])
        found[domain] = {name: measured[name] for name in ("answers", "right", "auc")}
    return found


def _training(
    settings: TrainSettings,
    train: Sequence[Sequence[CandidateRow]],
    held: Sequence[Sequence[CandidateRow]],
    learned: Learned,
    head: HeadLearned,
    seconds: float,
) -> dict[str, Any]:
    domains: dict[str, int] = {}
    sources: dict[str, int] = {}
    for group in train:
        domains[group[0]["domain"]] = domains.get(group[0]["domain"], 0) + 1
        for row in group:
            sources[row["source"]] = sources.get(row["source"], 0) + 1
    return {
        "settings": asdict(settings.learn)
        | {"train_tokens": settings.train_tokens, "rank": settings.rank},
        "questions": len(train),
        "questions_held_out": len(held),
        "questions_by_domain": domains,
        "answers_by_source": sources,
        "steps": learned.steps,
        "best_step": learned.best_step,
        "held_out_loss": learned.held_out_loss,
        "head": asdict(settings.head) | asdict(head),
        "seconds": round(seconds, 1),
    }
