"""Rows of all arms for data sets named by paths: what `rttc eval` and `rttc calibrate` share.

The file of rows is read once; from then on its content is handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rttc_graph.arms import cascade_arms
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.arm_rows import ArmLog, ArmRows, RowKey
from rttc_graph.evaluation.collect import (
    Collection,
    DataSet,
    RunArm,
    collect,
    judge_missing,
)
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, evaluated_questions
from rttc_graph.evaluation.records import settings_digest
from rttc_graph.evaluation.runner import choose_rows
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    calibrated_fingerprint,
    probability_map,
)
from rttc_graph.jobs.watching import Advance, Watcher
from rttc_graph.protocols import StoredCalibration
from rttc_graph.samples import read_samples
from rttc_graph.samples.ingest import IngestProgress, ingest
from rttc_graph.state import Arm

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc

QUESTIONS, SAMPLES = "questions.jsonl", "samples.jsonl"
"""Files in the folder of a data set."""

_NO_PART = {"policy", "first_arm", "tau_r", "tau_r_of", "use_cache"}
_UNBOUNDED: Mapping[str, Any] = {
    "budget_seconds": 86_400.0,
    "budget_tokens": 10**9,
    "use_cache": False,
}
"""No arm is cut short for want of time: which one that would hit depends on the machine's load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsWanted:
    """Which rows a command wants."""

    data_sets: Sequence[DataSet]
    samples: Sequence[Path]
    """Files to ingest before."""
    domain: str | None
    log: Path
    arms: Sequence[Arm] = field(default_factory=cascade_arms)
    """Arms to run."""


def wanted_data_sets(
    paths: Sequence[str], *, limit: int | None, seed: int
) -> tuple[list[DataSet], list[Path]]:
    """Return the data sets that paths stand for, and the files of samples beside them.

    Args:
        paths: Files of questions, or folders with `questions.jsonl` and perhaps `samples.jsonl`;
            the name of the file or folder is that of the data set.
        limit: Questions of each, drawn by `seed`; `None` for all.
        seed: Seed for drawing questions.

    Raises:
        ConfigurationError: A folder has no questions.
    """
    data_sets: list[DataSet] = []
    samples: list[Path] = []
    for path in paths:
        source, name = path, Path(path.removeprefix("hub:")).stem
        if Path(path).is_dir():
            folder = Path(path).resolve()
            source, name = str(folder / QUESTIONS), folder.name
            if not (folder / QUESTIONS).is_file():
                raise ConfigurationError(f"folder {path!r} has no {QUESTIONS}")
            samples += [folder / SAMPLES] if (folder / SAMPLES).is_file() else []
        rows = choose_rows(list(read_samples(source)), limit=limit, seed=seed)
        data_sets.append(DataSet(name=name, rows=rows))
    return data_sets, samples


def run_name(data_sets: Sequence[DataSet], records: Path | None) -> str:
    """Return what the files of a run are called: its data sets, or its file of rows."""
    named = "-".join(data_set.name for data_set in data_sets)
    return named or (records.stem if records else "rows")


def wanted_collection(config: InstallationConfig, wanted: RowsWanted) -> Collection:
    """Return what is collected with the policy model of a configuration."""
    settings = config.run_settings().model_dump(exclude=_NO_PART | _UNBOUNDED.keys())
    details = {**settings, "embedder": config.embedder, "domain": wanted.domain}
    return Collection(
        data_sets=wanted.data_sets,
        model=config.model,
        digest=settings_digest(details),
        settings=details,
        domain=wanted.domain,
        arms=wanted.arms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRows:
    """The rows of one policy model, judged by one reward model."""

    model: str
    rows: ArmRows
    """Content of the whole file; several models may share it."""
    keys: Sequence[RowKey]
    """Rows of `model`."""
    reward_model: str
    fingerprint: str
    """Fingerprint of the reward model with its raw scores."""
    calibration: StoredCalibration | None

    def check_threshold(self, config: InstallationConfig) -> None:
        """Refuse a τr that was chosen for another reward model.

        Raises:
            ConfigurationError: It was.
        """
        found = calibrated_fingerprint(self.calibration) if self.calibration else self.fingerprint
        if config.tau_r_of not in ("", found):
            raise ConfigurationError(
                f"tau_r={config.tau_r!r} was chosen for the fingerprint {config.tau_r_of!r}, but "
                f"{self.reward_model!r} has {found!r}: run rttc calibrate, or give --tau and "
                "leave out tau_r_of"
            )


def collect_rows(
    configs: Sequence[InstallationConfig], wanted: RowsWanted, watcher: Watcher
) -> list[ModelRows]:
    """Run every arm on every question, with the policy model of each configuration in turn.

    Args:
        configs: Alike but for the policy model.
        wanted: What the file of rows holds already is not run again.
        watcher: Is shown the progress, and told of questions that are samples themselves.
    """
    from rttc_graph.installation.local import open_local

    log = ArmLog(wanted.log)
    rows = log.load()
    found: list[ModelRows] = []
    for config in configs:
        collection = wanted_collection(config, wanted)
        with open_local(config) as local:
            _fill(local, wanted, watcher)
            with watcher.step(f"collect with {config.model}") as advance:
                asyncio.run(
                    collect(
                        collection,
                        _arm_runner(local),
                        local.judge,
                        log,
                        rows=rows,
                        on_progress=lambda progress: advance(progress.done, progress.total),
                    )
                )
            found.append(asyncio.run(_model_rows(local, rows, collection.keys())))
    return found


def judge_rows(
    config: InstallationConfig, log: Path, watcher: Watcher, *, only: str | None = None
) -> list[ModelRows]:
    """Judge the rows of a file with the configured reward model, model by model; runs no arm.

    Args:
        config: Names the reward model.
        log: File of rows.
        watcher: Is shown the progress.
        only: Policy model whose rows are judged; by default those of all.

    Raises:
        ConfigurationError: There are no rows.
    """
    from rttc_graph.installation.local import open_local

    rows = ArmLog(log).load()
    if not rows.answers:
        raise ConfigurationError(f"{str(log)!r} has no rows to judge: collect some first")
    found: list[ModelRows] = []
    models = dict.fromkeys(key.model for key in rows.answers)
    for model in models if only is None else [name for name in models if name == only]:
        keys = [key for key in rows.answers if key.model == model]
        with open_local(config.model_copy(update={"model": model})) as local:
            with watcher.step(f"judge answers of {model}") as advance:
                asyncio.run(
                    judge_missing(
                        rows,
                        keys,
                        local.judge,
                        ArmLog(log),
                        on_progress=lambda progress: advance(progress.done, progress.total),
                    )
                )
            found.append(asyncio.run(_model_rows(local, rows, keys)))
    return found


def rows_settings(found: Sequence[ModelRows]) -> dict[str, Any]:
    """Return what the rows were made with; where that differs, all values with a comma."""
    values: dict[str, dict[str, None]] = {}
    for model_rows in found:
        for digest in dict.fromkeys(key.digest for key in model_rows.keys):
            for name, value in model_rows.rows.settings.get(digest, {}).items():
                values.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(seen) for name, seen in values.items()}


def questions_of_models(
    found: Sequence[ModelRows], *, scorer: ScorerName, calibrated: bool = True
) -> list[EvaluatedQuestion]:
    """Return the questions of all models, with calibrated rewards where there is a calibration."""
    return [
        question
        for model_rows in found
        for question in evaluated_questions(
            model_rows.rows,
            model_rows.keys,
            model_rows.fingerprint,
            calibrate=(
                probability_map(model_rows.calibration)
                if model_rows.calibration and calibrated
                else None
            ),
            scorer=scorer,
        )
    ]


async def _model_rows(local: LocalRttc, rows: ArmRows, keys: Sequence[RowKey]) -> ModelRows:
    judge, tenant = local.judge, local.config.tenant
    fingerprint = await judge.fingerprint()
    return ModelRows(
        model=local.config.model,
        rows=rows,
        keys=keys,
        reward_model=judge.name,
        fingerprint=fingerprint,
        calibration=await local.knowledge.calibrations.load(judge.name, fingerprint, tenant=tenant),
    )


def _arm_runner(local: LocalRttc) -> RunArm:
    """Return what runs one arm on the real graph with raw rewards, and leaves no trace."""
    from rttc_graph.graph import RttcParts, create_rttc_graph
    from rttc_graph.installation.ask_question import ask

    parts: RttcParts = {
        **local.parts,
        "reward_model": local.judge,
        "cache": None,
        "ledger_store": None,
    }
    graph = create_rttc_graph(**parts)
    run = local.config.run_settings().model_copy(update={**_UNBOUNDED, "tau_r_of": ""})

    async def run_arm(question: str, *, domain: str | None, arm: Arm) -> Mapping[str, Any]:
        return await ask(
            graph, question, domain=domain, settings=run.model_copy(update={"policy": arm})
        )

    return run_arm


def _fill(local: LocalRttc, wanted: RowsWanted, watcher: Watcher) -> None:
    """Ingest what lies beside the questions, and say how many of these are samples themselves."""
    tenant = local.config.tenant
    base, embedder = local.knowledge.knowledge_base, local.knowledge.embedder
    for path in wanted.samples:
        with watcher.step(f"ingest {path}") as advance:

            def show(done: IngestProgress, advance: Advance = advance) -> None:
                advance(done.rows, done.total or 0)

            samples = read_samples(str(path))
            asyncio.run(ingest(samples, base, embedder, tenant=tenant, on_progress=show))
    for data_set in wanted.data_sets:
        asyncio.run(warn_of_leaks(local, data_set, watcher))


async def warn_of_leaks(local: LocalRttc, data_set: DataSet, watcher: Watcher) -> None:
    """Say how many of the questions are in the knowledge base with their answers."""
    base = local.knowledge.knowledge_base
    missing = await base.missing(data_set.rows, tenant=local.config.tenant)
    if known := missing.count(False):
        watcher.warn(
            f"{known} of {len(missing)} questions of {data_set.name} are in the knowledge base "
            "with their answers, which flatters rag and ttt"
        )
