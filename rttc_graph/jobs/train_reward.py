"""A whole training on this machine: files of solved questions in, a reward-model folder out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.installation.local import open_engine
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.rewards.trained.network_learning import LearnProgress, LearnSettings
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    encoder_base,
    policy_base,
)
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.torch_threads import ThreadsByLoad
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import NewSample
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, read_candidates
from rttc_graph.reward_training.candidate_sampling import (
    CandidateSampler,
    SamplingSettings,
)
from rttc_graph.reward_training.measuring import Measured, measure
from rttc_graph.reward_training.training import (
    TrainResult,
    TrainSettings,
    check_right,
    train_reward,
)
from rttc_graph.samples import draw_rows, read_samples
from rttc_graph.support.progress import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Files, and how much of each is used."""

    files: tuple[Path, ...]
    samples: tuple[Path, ...] = ()
    """Files to take samples from; the files of questions if empty."""
    questions: int | None = None
    """Number of questions to draw from each file; `None` takes all."""
    most_samples: int = 2_000
    """Most samples of each file. Search is exact; embedding takes a few milliseconds a sample."""
    seed: int = 0

    def read(self) -> tuple[list[NewSample], list[NewSample]]:
        """Return questions and samples; blocks.

        Raises:
            ConfigurationError: A file is missing, holds bad rows, or a number is below 1.
        """
        for name in ("questions", "most_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}={value!r} must be at least 1")

        def drawn(files: Sequence[Path], limit: int | None) -> list[NewSample]:
            parts = [draw_rows(read_samples(file), limit=limit, seed=self.seed) for file in files]
            return list(chain.from_iterable(parts))

        return drawn(self.files, self.questions), drawn(
            self.samples or self.files, self.most_samples
        )


Backbone = Literal["towers", "encoder", "policy"]
"""An encoder that reads question and answer apart, or together, or the policy model itself."""


def train_settings(
    config: InstallationConfig,
    learn: LearnSettings,
    *,
    name: str,
    backbone: Backbone,
    base: str,
    rank: int,
) -> TrainSettings:
    """Return the settings of a training on this installation.

    Args:
        config: Names the policy model.
        learn: How the weights learn; the groups of a step follow from the backbone.
        name: Name of the reward model.
        backbone: What reads questions and answers.
        base: Encoder to start from; the backbone `policy` has none.
        rank: Rank of the LoRA terms.
    """
    # Towers encode each answer alone, so the questions of a step lend each other answers.
    groups = 32 if backbone == "towers" else 8
    return TrainSettings(
        name=name,
        backbone="causal" if backbone == "policy" else backbone,
        base=config.model if backbone == "policy" else base,
        rank=rank,
        alpha=2.0 * rank,
        learn=replace(learn, groups_per_step=groups),
    )


def draw_candidates(
    config: InstallationConfig,
    material: Material,
    settings: SamplingSettings,
    file: Path,
    watcher: Watcher,
) -> list[CandidateRow]:
    """Draw the candidates of a material into a file, which may hold some of them, and return all.

    Raises:
        RttcError: A file or a model is unavailable, or a setting is wrong.
    """
    check_outputs(logs=[file])
    with watcher.step("draw candidates") as advance:
        log = CandidateLog(file)
        return asyncio.run(sample_candidates(config, material, settings, log, advance))


def train_from_files(
    config: InstallationConfig,
    material: Material,
    sampling: SamplingSettings,
    settings: TrainSettings,
    watcher: Watcher,
    *,
    candidates: Sequence[Path],
    folder: Path,
) -> TrainResult:
    """Draw candidates and train a reward model on them, and on those of further files.

    Args:
        config: Names the models.
        material: Questions and samples.
        sampling: Which candidates are drawn.
        settings: How they are learnt.
        watcher: Is shown the progress.
        candidates: Files of candidates; the first is added to.
        folder: Folder of the reward model.

    Raises:
        RttcError: A file or a model is unavailable, a setting is wrong, or there are too few
            candidates.
    """
    check_outputs(logs=[folder / "README.md"])
    rows = {
        row["key"]: row
        for row in draw_candidates(config, material, sampling, candidates[0], watcher)
    }
    more = read_candidates(candidates[1:]) if candidates[1:] else []
    for row in more:
        rows.setdefault(row["key"], row)
    with watcher.step("train") as advance:

        def show(done: LearnProgress) -> None:
            held_out = "" if done.held_out_loss is None else f", held out {done.held_out_loss:.3f}"
            advance(done.step, done.steps)
            watcher.describe(f"train: loss {done.loss:.3f}{held_out}")

        return asyncio.run(train_on(config, list(rows.values()), settings, folder, show))


def measure_files(config: InstallationConfig, files: Sequence[Path], watcher: Watcher) -> Measured:
    """Measure the configured reward model on files of candidates.

    Raises:
        RttcError: A file cannot be read, or the reward model is unavailable or failed.
    """
    rows = read_candidates(files)
    with watcher.step("score") as advance:
        return asyncio.run(measure_on(config, rows, advance))


async def sample_candidates(
    config: InstallationConfig,
    material: Material,
    settings: SamplingSettings,
    log: CandidateLog,
    on_progress: Advance,
) -> list[CandidateRow]:
    """Draw the candidates of a material with the installation's models; resumes what the log has.

    Raises:
        RttcError: A file or a model is unavailable, or a setting is wrong.
    """
    questions, samples = await asyncio.to_thread(material.read)
    with open_engine(config, keeps_prompts=False) as engine:
        policy_model = TransformersPolicyModel(engine) if settings.arms else None
        sampler = CandidateSampler(
            policy_model=policy_model,
            embedder=local_embedder(
                partial(resolve, config.embedder, cache_dir=config.home), name=config.embedder
            ),
            trainer=(
                LoraTrainer(engine, training_dtype=config.training_dtype)
                if any(ARMS[arm].trains for arm in settings.arms)
                else None
            ),
        )
        return await sampler.draw(questions, samples, settings, log, on_progress)


async def train_on(
    config: InstallationConfig,
    rows: Sequence[CandidateRow],
    settings: TrainSettings,
    folder: Path,
    on_progress: Callable[[LearnProgress], None],
) -> TrainResult:
    """Train on candidates with the installation's backbone, off the event loop.

    Raises:
        RttcError: The backbone is unavailable, or there are too few candidates.
    """
    check_right(rows)

    def train(base: RewardBase) -> TrainResult:
        return train_reward(base, rows, settings, folder, on_progress=on_progress)

    if settings.backbone == "causal":
        with open_engine(config, keeps_prompts=False) as engine:

            def in_lane(loaded: LoadedModel) -> TrainResult:
                return train(policy_base(loaded))

            return await engine.in_lane(in_lane)
    return await asyncio.to_thread(lambda: train(_encoder(config, settings.base)))


def _encoder(config: InstallationConfig, name: str) -> RewardBase:
    torch.set_num_threads(config.threads or ThreadsByLoad().now())
    return encoder_base(resolve(name, cache_dir=config.home))


async def measure_on(
    config: InstallationConfig,
    rows: Sequence[CandidateRow],
    on_progress: Advance,
) -> Measured:
    """Measure the installation's reward model on candidates.

    Raises:
        RttcError: The reward model is unavailable, or failed.
    """
    with open_engine(config, keeps_prompts=False) as engine:
        judge = open_reward_model(config, engine, LoraTrainer(engine).base_fingerprint)
        return await measure(judge, rows, on_progress)
