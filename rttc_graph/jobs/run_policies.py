"""`rttc eval --real`: every policy run for real, with all that a replay leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rttc_graph.evaluation.collect import DataSet
from rttc_graph.evaluation.runner import EvaluationProgress, EvaluationSettings, evaluate
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.evaluation.summary import EvaluationResult
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.collect_rows import warn_of_leaks
from rttc_graph.jobs.watching import Advance, Watcher
from rttc_graph.settings import PolicyName

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


def evaluate_for_real(
    config: InstallationConfig,
    data_set: DataSet,
    policies: tuple[PolicyName, ...],
    watcher: Watcher,
    *,
    scorer: ScorerName,
    domain: str | None,
    use_cache: bool,
    records: Path | None,
) -> tuple[EvaluationResult, Path]:
    """Run every policy on every question and return the figures and the file of records."""
    run = config.run_settings()
    settings = EvaluationSettings(
        policies=policies,
        scorer=scorer,
        seed=config.seed,
        use_cache=use_cache,
        domain=domain,
        details={
            **run.model_dump(exclude={"policy", "seed", "use_cache"}),
            "model": config.model,
            "embedder": config.embedder,
            "reward": config.reward,
        },
    )
    log = records or config.home / "evaluations" / f"{data_set.name}-{settings.digest()}.jsonl"

    from rttc_graph.installation.local import open_local

    with watcher.step("evaluate") as advance, open_local(config) as local:
        asyncio.run(_prepare(local, data_set, watcher))
        return asyncio.run(_evaluate(local, data_set, settings, log, advance)), log


async def _prepare(local: LocalRttc, data_set: DataSet, watcher: Watcher) -> None:
    await local.warm_up()
    await warn_of_leaks(local, data_set, watcher)


async def _evaluate(
    local: LocalRttc,
    data_set: DataSet,
    settings: EvaluationSettings,
    log: Path,
    advance: Advance,
) -> EvaluationResult:
    run = local.config.run_settings()

    async def ask(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, use_cache: bool
    ) -> Mapping[str, Any]:
        chosen = run.model_copy(update={"policy": policy, "seed": seed, "use_cache": use_cache})
        return await local.ask(question, domain=domain, settings=chosen)

    def show(done: EvaluationProgress) -> None:
        advance(done.done, done.total)

    return await evaluate(ask, list(data_set.rows), settings, log=log, on_progress=show)
