"""`rttc eval --real`: every policy run for real, with all that a replay leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from rttc_graph.cli.screen import err, out, print_table, progress
from rttc_graph.evaluation.collect import DataSet
from rttc_graph.evaluation.runner import EvaluationProgress, EvaluationSettings, evaluate
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.evaluation.summary import EvaluationResult
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName, RttcSettings

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


def evaluate_for_real(
    config: InstallationConfig,
    data_set: DataSet,
    policies: tuple[PolicyName, ...],
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

    rows = list(data_set.rows)
    with progress("evaluate", total=0) as bar, open_local(config) as local:
        return asyncio.run(_evaluate(local, rows, settings, run, log, bar)), log


async def _evaluate(
    local: LocalRttc,
    rows: list[NewSample],
    settings: EvaluationSettings,
    run: RttcSettings,
    log: Path,
    bar: Progress,
) -> EvaluationResult:
    async def ask(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, use_cache: bool
    ) -> Mapping[str, Any]:
        chosen = run.model_copy(update={"policy": policy, "seed": seed, "use_cache": use_cache})
        return await local.ask(question, domain=domain, settings=chosen)

    def show(done: EvaluationProgress) -> None:
        bar.update(bar.task_ids[0], completed=done.done, total=done.total)

    await local.warm_up()
    await _warn_of_leaks(local, rows)
    return await evaluate(ask, rows, settings, log=log, on_progress=show)


async def _warn_of_leaks(local: LocalRttc, rows: list[NewSample]) -> None:
    """Say how many of the questions are themselves in the knowledge base."""
    missing = await local.knowledge.knowledge_base.missing(rows, tenant=local.config.tenant)
    if known := missing.count(False):
        err.print(
            f"warning: {known} of {len(rows)} questions are in the knowledge base with their "
            "answers, which flatters rag and ttt"
        )


def print_policies(policies: Mapping[str, Any]) -> None:
    """Print the figures of each policy as a table."""
    columns = ["policy", "accuracy", "95 %", "seconds", "prompt", "completion", "trained", "arms"]
    print_table(
        columns,
        [
            (
                policy,
                f"{summary['accuracy']:.1%}",
                "{:.1%} to {:.1%}".format(*summary["interval"]),
                f"{summary['seconds_mean']:.2f}",
                f"{summary['prompt_tokens']:.0f}",
                f"{summary['completion_tokens']:.0f}",
                f"{summary['trained_tokens']:.0f}",
                ", ".join(f"{arm} {count:.4g}" for arm, count in summary["arms"].items()),
            )
            for policy, summary in policies.items()
        ],
    )


def print_result(result: EvaluationResult) -> None:
    """Print the figures of an evaluation."""
    print_policies(result["policies"])
    failed = sum(summary["failed"] for summary in result["policies"].values())
    out.print(f"{result['rows']} questions" + (f", {failed} runs failed" if failed else ""))
