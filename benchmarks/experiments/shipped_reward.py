"""Train the reward model that ships, from folders that `split_data` made.

Each stage leaves a file and is skipped where the file is there, so a killed run goes on:

1. answers of other samples to train on (`free-*.jsonl`), two minutes;
2. the network, trained on 1, and then its head alone: ten minutes of a core;
3. answers of the policy model to questions that the network has not learned from
   (`calibrate-*.jsonl`), a quarter of an hour, and the map to P(right), fitted on them.

    for set in banking77 clinc150 gsm8k pubmedqa; do
        python -m benchmarks.tools.split_data $set.train.jsonl build/split/$set
    done
    python -m benchmarks.experiments.reasoning_tasks build/split/reasoning.jsonl --per-task 20
    python -m benchmarks.experiments.reasoning_tasks build/split/asked.jsonl \
        --per-task 60 --seed 900000
    python -m benchmarks.experiments.shipped_reward build/split build/candidates \
        --out build/minilm-judge

`--leave-out banking` trains without a domain, to see what the model makes of a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.rewards.trained.network_learning import LearnProgress, LearnSettings
from rttc_graph.integrations.rewards.trained.reward_folder import encoder_base
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.protocols import NewSample
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, read_candidates
from rttc_graph.reward_training.candidate_sampling import (
    CandidateSampler,
    SamplingSettings,
    question_group,
)
from rttc_graph.reward_training.training import TrainSettings, refit, train_reward
from rttc_graph.samples import read_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of training questions, and how much of it is used."""

    file: str
    questions: int | None
    samples: int | None
    negatives: int = 3
    thin: int = 1
    """Every so manyth of these questions is learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Questions that the policy model answers, for the map; nothing is learned from them."""

    file: str
    first: int
    count: int
    """Of each domain."""

    def split(self, rows: Sequence[NewSample]) -> tuple[list[NewSample], list[NewSample]]:
        """Return the questions, and rows that samples in their prompts come from."""
        domains: dict[str, list[NewSample]] = {}
        for row in rows:
            domains.setdefault(row.domain, []).append(row)
        asked = [r for d in domains.values() for r in d[self.first : self.first + self.count]]
        shown = [r for d in domains.values() for r in (d[: self.first] or d[self.count :])]
        return asked, shown[:MOST_SHOWN]


MOST_SHOWN = 2_000

PARTS = {
    "banking": Part(file="banking77/samples.jsonl", questions=900, samples=1500),
    "clinc": Part(file="clinc150/samples.jsonl", questions=900, samples=1500),
    "reasoning": Part(
        file="reasoning.jsonl",
        questions=None,
        samples=None,
        thin=2,
    ),
    "gsm8k": Part(file="gsm8k/samples.jsonl", questions=60, samples=120, thin=2),
    "pubmedqa": Part(file="pubmedqa/samples.jsonl", questions=40, samples=60, thin=2, negatives=2),
}

ASKED = {
    "banking": Asked(file="banking77/samples.jsonl", first=0, count=24),
    "clinc": Asked(file="clinc150/samples.jsonl", first=2_000, count=50),
    "reasoning": Asked(file="asked.jsonl", first=0, count=4),
}


def draw(
    config: InstallationConfig,
    questions: Sequence[NewSample],
    samples: Sequence[NewSample],
    out: Path,
    *,
    negatives: int,
    ask: bool,
) -> list[CandidateRow]:
    """Draw candidates, or read them where they are there."""
    if out.exists():
        return read_candidates([out])
    engine = LocalEngine(config.model, cache_dir=config.home, threads=config.threads)
    try:
        sampler = CandidateSampler(
            policy_model=TransformersPolicyModel(engine) if ask else None,
            embedder=local_embedder(
                partial(resolve, config.embedder, cache_dir=config.home), name=config.embedder
            ),
        )
        settings = SamplingSettings(
            temperatures=(0.0,), k=8, max_new_tokens=32, negatives=negatives
        )
        begun = out.with_suffix(".part")
        found = asyncio.run(sampler.draw(questions, samples, settings, CandidateLog(begun)))
        begun.rename(out)
        return found
    finally:
        engine.close()


def show(progress: LearnProgress) -> None:
    """Print every tenth step."""
    if progress.step % 10 == 0 or progress.step == progress.steps:
        held = progress.held_out_loss
        print(progress.step, progress.steps, f"{progress.loss:.4f}", held, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("data", type=Path, help="folder with banking77/samples.jsonl and so on")
    parser.add_argument("candidates", type=Path, help="folder for the candidates")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reward model")
    parser.add_argument("--leave-out", nargs="*", default=[], choices=list(PARTS))
    parser.add_argument("--backbone", default="towers", choices=["towers", "encoder"])
    parser.add_argument("--loss", default="both", choices=["pointwise", "pairwise", "both"])
    parser.add_argument("--epochs", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    config = load_config(threads=given.threads)
    parts = {name: part for name, part in PARTS.items() if name not in given.leave_out}
    rows: list[CandidateRow] = []
    answered: list[CandidateRow] = []
    answers = {
        name: asked.split(list(read_samples(given.data / asked.file)))
        for name, asked in ASKED.items()
        if name in parts
    }
    kept_apart = {question_group(row) for questions, _ in answers.values() for row in questions}
    for name, part in parts.items():
        solved = list(read_samples(given.data / part.file))
        questions, samples = solved[: part.questions], solved[: part.samples]
        out = given.candidates / f"free-{name}.jsonl"
        drawn = draw(config, questions, samples, out, negatives=part.negatives, ask=False)
        learned = {question_group(row) for row in questions[:: part.thin]} - kept_apart
        rows += [row for row in drawn if row["group"] in learned]
    settings = TrainSettings(
        name=given.out.name,
        backbone=given.backbone,
        train_tokens=64,
        held_out=0.04,
        learn=LearnSettings(
            loss=given.loss,
            epochs=given.epochs,
            groups_per_step=32,
            checks=2,
            seed=given.seed,
        ),
    )
    base = encoder_base(resolve(settings.base, cache_dir=config.home))
    result = train_reward(base, rows, settings, given.out, on_progress=show)
    print(json.dumps(result.spec.training, indent=1), flush=True)
    for name, (questions, samples) in answers.items():
        out = given.candidates / f"calibrate-{name}.jsonl"
        answered += draw(config, questions, samples, out, negatives=0, ask=True)
    base = encoder_base(resolve(settings.base, cache_dir=config.home))
    print(json.dumps(dict(refit(base, answered, given.out)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
