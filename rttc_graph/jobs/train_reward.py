"""A whole training on this machine: files of solved questions in, a reward-model folder out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.verdicts import Verdicts
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_embedder import open_embedder
from rttc_graph.installation.configured_policy import open_engine, open_policy
from rttc_graph.installation.configured_reward import open_reward_model
from rttc_graph.integrations.process_rewards.probe_file import Probe
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.integrations.rewards.shipped import shipped_folder
from rttc_graph.integrations.rewards.trained.network_learning import LearnProgress, LearnSettings
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    Speech,
    encoder_base,
    load_speech,
    policy_base,
)
from rttc_graph.integrations.rewards.trained.reward_spec import read_spec
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.torch_threads import ThreadsByLoad
from rttc_graph.integrations.transformers.weight_files.resolve import entry_for, resolve
from rttc_graph.jobs.collect_rows import opened_verdicts
from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import NewSample
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, read_candidates
from rttc_graph.reward_training.candidate_sampling import (
    CandidateSampler,
    SamplingSettings,
)
from rttc_graph.reward_training.card import NOT_STATED, Licenses
from rttc_graph.reward_training.evidence_fit import HeadMaterial
from rttc_graph.reward_training.measuring import Measured, measure
from rttc_graph.reward_training.process.probe_fit import ProbeSettings, card_lines, fit_probe
from rttc_graph.reward_training.process.step_drawing import StepDrawing, StepSampler
from rttc_graph.reward_training.process.step_rows import QuestionSteps
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a training makes, and where it goes."""

    folder: Path
    """Folder of the reward model."""
    with_evidence: bool = True
    """Whether it gets a head that judges by samples too, where there is enough data."""
    data_license: str = NOT_STATED
    """Licence of questions and answers, for the card."""
    grader: GraderSettings | None = None
    """Model that judges for the scorer `chat-judge`."""


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
    *,
    grader: GraderSettings | None = None,
) -> list[CandidateRow]:
    """Draw the candidates of a material into a file, which may hold some of them, and return all.

    Args:
        config: Names the models.
        material: Questions and samples.
        settings: Which candidates are drawn.
        file: Candidates are added to it.
        watcher: Is shown the progress, and told of answers that are not counted.
        grader: Who judges for the scorer `chat-judge`.

    Raises:
        RttcError: A file or a model is unavailable, or a setting is wrong.
    """
    check_outputs(logs=[file])
    log = CandidateLog(file)
    with (
        opened_verdicts(config, settings.scorer, grader) as verdicts,
        watcher.step("draw candidates") as advance,
    ):
        watcher.describe("draw candidates: loading the models, finding near samples")

        def show(done: int, total: int) -> None:
            watcher.describe("draw candidates")
            advance(done, total)

        rows = asyncio.run(
            sample_candidates(config, material, settings, log, show, verdicts=verdicts)
        )
    if verdicts is not None:
        left_out = sum(bool(row.get("undecided")) for row in log.load().values())
        watcher.tell(f"{verdicts}: {left_out} answers are not counted")
    return rows


def train_from_files(
    config: InstallationConfig,
    material: Material,
    sampling: SamplingSettings,
    settings: TrainSettings,
    watcher: Watcher,
    *,
    candidates: Sequence[Path],
    outcome: Outcome,
) -> TrainResult:
    """Draw candidates and train a reward model on them, and on those of further files.

    Args:
        config: Names the models.
        material: Questions and samples.
        sampling: Which candidates are drawn.
        settings: How they are learnt.
        watcher: Is shown the progress.
        candidates: Files of candidates; the first is added to.
        outcome: What is made of them, and where it goes.

    Raises:
        RttcError: A file or a model is unavailable, a setting is wrong, or there are too few
            candidates.
    """
    check_outputs(logs=[outcome.folder / "README.md"])
    drawn = draw_candidates(
        config, material, sampling, candidates[0], watcher, grader=outcome.grader
    )
    rows = {row["key"]: row for row in drawn}
    more = read_candidates(candidates[1:]) if candidates[1:] else []
    for row in more:
        rows.setdefault(row["key"], row)
    with watcher.step("train") as advance:

        def show(done: LearnProgress) -> None:
            held_out = "" if done.held_out_loss is None else f", held out {done.held_out_loss:.3f}"
            advance(done.step, done.steps)
            watcher.describe(f"train: loss {done.loss:.3f}{held_out}")

        result = asyncio.run(train_on(config, list(rows.values()), settings, outcome, show))
    if reason := result.spec.training["evidence"].get("refused"):
        watcher.warn(f"no head that judges by samples: {reason}; the rest is there")
    return result


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
    *,
    verdicts: Verdicts | None = None,
) -> list[CandidateRow]:
    """Draw the candidates of a material with the installation's models; resumes what the log has.

    Raises:
        RttcError: A file or a model is unavailable, or a setting is wrong.
    """
    questions, samples = await asyncio.to_thread(material.read)
    with open_policy(config, keeps_prompts=False) as policy:
        for arm in settings.arms:
            if arm in policy.closed_arms:
                raise ConfigurationError(f"{policy.closed_arms[arm]}: leave it out of --arms")
        sampler = CandidateSampler(
            policy_model=policy.model if settings.arms else None,
            embedder=open_embedder(config),
            trainer=policy.trainer if any(ARMS[arm].trains for arm in settings.arms) else None,
            verdicts=verdicts,
        )
        return await sampler.draw(questions, samples, settings, log, on_progress)


async def train_on(
    config: InstallationConfig,
    rows: Sequence[CandidateRow],
    settings: TrainSettings,
    outcome: Outcome,
    on_progress: Callable[[LearnProgress], None],
) -> TrainResult:
    """Train on candidates with the installation's backbone, off the event loop.

    Raises:
        RttcError: The backbone is unavailable, or there are too few candidates.
    """
    check_right(rows)

    def train(base: RewardBase) -> TrainResult:
        return train_reward(
            base,
            rows,
            settings,
            outcome.folder,
            material=_head_material(config, settings) if outcome.with_evidence else None,
            licenses=Licenses(base=_license_of(config, settings.base), data=outcome.data_license),
            on_progress=on_progress,
        )

    if settings.backbone == "causal":
        with open_engine(config, keeps_prompts=False) as engine:

            def in_lane(loaded: LoadedModel) -> TrainResult:
                return train(policy_base(loaded))

            return await engine.in_lane(in_lane)
    return await asyncio.to_thread(lambda: train(_encoder(config, settings.base)))


def _encoder(config: InstallationConfig, name: str) -> RewardBase:
    torch.set_num_threads(config.threads or ThreadsByLoad().now())
    return encoder_base(resolve(name, cache_dir=config.home))


def _head_material(config: InstallationConfig, settings: TrainSettings) -> HeadMaterial | None:
    """Return what the head for samples needs; `None` for a backbone that has no encoder."""
    if settings.backbone == "causal":
        return None
    return HeadMaterial(
        unchanged=lambda: _encoder(config, settings.base), speech_of=_shipped_speech
    )


def _shipped_speech(fingerprint: str) -> Speech | None:
    """Return what the shipped judge hears by the same encoder: it learned that from more texts."""
    folder = shipped_folder()
    return load_speech(folder) if read_spec(folder).base_fingerprint == fingerprint else None


def _license_of(config: InstallationConfig, base: str) -> str:
    """Return the licence of a backbone: of the catalogue, or as its own card says."""
    entry = entry_for(base)
    if entry is not None:
        return entry.license
    card = resolve(base, cache_dir=config.home) / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    stated = re.search(r"^license:\s*(\S.*)$", text.partition("\n---")[0], re.MULTILINE)
    return stated[1].strip("'\" ") if stated else NOT_STATED


async def measure_on(
    config: InstallationConfig,
    rows: Sequence[CandidateRow],
    on_progress: Advance,
) -> Measured:
    """Measure the installation's reward model on candidates.

    Raises:
        RttcError: The reward model is unavailable, or failed.
    """
    with open_policy(config, keeps_prompts=False) as policy:
        judge = open_reward_model(config, policy.engine, policy.fingerprint)
        return await measure(judge, rows, on_progress)


STEPS_FILE = "steps.jsonl"
"""File of drawn steps in a probe's folder."""


def train_probe_from_files(
    config: InstallationConfig,
    material: Material,
    drawing: StepDrawing,
    folder: Path,
    watcher: Watcher,
    *,
    name: str,
) -> Probe:
    """Draw answers step by step, fit a probe on the policy model's hidden states, and write it.

    Steps are kept in the folder, so a killed run goes on where it stopped.

    Args:
        config: Names the policy model.
        material: Questions with known answers.
        drawing: How answers are drawn and completed.
        folder: Where the probe goes.
        watcher: Shows the steps of the job.
        name: Name of the probe.

    Raises:
        ConfigurationError: The material or the folder cannot be used, the policy model is served
            elsewhere, or too few questions have right answers and wrong ones.
        PolicyModelError: The policy model failed.
    """
    questions, _ = material.read()
    file = folder / STEPS_FILE
    check_outputs(logs=[file])
    with open_policy(config) as policy, asyncio.Runner() as runner:
        if policy.engine is None:
            raise ConfigurationError(
                f"model={config.model!r} is served elsewhere, and a probe reads hidden states of a "
                "model in this process: name a local one"
            )
        whose = policy.fingerprint

        async def draw(advance: Advance) -> tuple[str, list[QuestionSteps]]:
            fingerprint = await whose()
            sampler = StepSampler(policy.model, fingerprint, drawing)
            return fingerprint, await sampler.draw(questions, file, on_progress=advance)

        with watcher.step(f"drawing steps of {len(questions)} questions") as advance:
            fingerprint, rows = runner.run(draw(advance))
    settings = ProbeSettings(
        name=name, policy_model=config.model, policy_fingerprint=fingerprint, seed=drawing.seed
    )
    with watcher.step("fitting the probe"):
        probe = fit_probe(rows, settings)
    probe.write(folder)
    card = "\n".join(card_lines(probe))
    (folder / "README.md").write_text(f"{card}\n", encoding="utf-8")
    return probe
