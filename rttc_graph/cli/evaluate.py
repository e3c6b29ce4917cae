"""`rttc eval`: the same questions under several policies, with what each got and cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.progress import Progress
from rich.text import Text

from rttc_graph.cli.eval_rows import RowsWanted, collect_rows, data_sets_of
from rttc_graph.cli.screen import AsJsonFile, err, out, print_json, print_table, progress
from rttc_graph.cli.session import session
from rttc_graph.data import read_samples
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.plot import plot_accuracy
from rttc_graph.evaluation.runner import (
    EvaluationProgress,
    EvaluationSettings,
    choose_rows,
    evaluate,
)
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.evaluation.summary import EvaluationResult
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName, RttcSettings

if TYPE_CHECKING:
    from rttc_graph.local import LocalRttc

_POLICIES = "direct,rag,ttt,cascade"


def evaluate_file(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(help="Files of questions, or folders with questions.jsonl, samples.jsonl."),
    ],
    models: Annotated[
        str | None, typer.Option(help="Policy models, comma-separated; the configured one.")
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies, comma-separated.")] = _POLICIES,
    limit: Annotated[int | None, typer.Option(help="Questions, drawn by the seed; all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw, sampling and training.")] = 0,
    scorer: Annotated[ScorerName, typer.Option(help="auto decides row by row.")] = "auto",
    domain: Annotated[str | None, typer.Option(help="Where samples are; the row's.")] = None,
    tau: Annotated[float | None, typer.Option(help="Reward that accepts, 0 to 1.")] = None,
    k: Annotated[int | None, typer.Option(help="Samples to retrieve.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose samples.")] = None,
    use_cache: Annotated[
        bool, typer.Option("--cache", help="Let runs use the query-state cache.")
    ] = False,
    records: Annotated[
        Path | None, typer.Option(help="File of every answer; it lets a killed run go on.")
    ] = None,
    collect_only: Annotated[
        bool, typer.Option("--collect-only", help="Run each arm once per question, and no more.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of accuracy against cost; rttc-eval-NAME.png.")
    ] = None,
    json_out: AsJsonFile = None,
) -> None:
    """Measure accuracy, seconds and tokens of policies on a file of questions.

    The knowledge base must hold samples of the same domain, and none of the questions.

    Example: rttc eval questions.jsonl --policies direct,cascade --limit 50 --json result.json
    """
    config = session(context).config(
        tau_r=tau, k=k, max_new_tokens=max_new_tokens, tenant=tenant, seed=seed
    )
    if collect_only:
        data_sets, samples = data_sets_of(paths, limit=limit, seed=seed)
        wanted = RowsWanted(
            data_sets=data_sets,
            samples=samples,
            seed=seed,
            domain=domain,
            log=records or config.home / "evaluations" / "rows.jsonl",
        )
        for model in (models or config.model).split(","):
            collect_rows(config.model_copy(update={"model": model.strip()}), wanted)
        out.print(Text(f"every answer: {wanted.log}"))
        return
    [path] = paths
    run = config.run_settings()
    rows = choose_rows(list(read_samples(path)), limit=limit, seed=seed)
    settings = EvaluationSettings(
        policies=_parse(policies),
        scorer=scorer,
        seed=seed,
        use_cache=use_cache,
        domain=domain,
        details={
            **run.model_dump(exclude={"policy", "seed", "use_cache"}),
            "model": config.model,
            "embedder": config.embedder,
            "reward": config.reward,
        },
    )
    name = Path(path.removeprefix("hub:")).stem
    log = records or config.home / "evaluations" / f"{name}-{settings.digest()}.jsonl"

    from rttc_graph.local import open_local

    with progress("evaluate", total=0) as bar, open_local(config) as local:
        result = asyncio.run(_evaluate(local, rows, settings, run, log, bar))
    picture = plot or Path(f"rttc-eval-{name}.png")
    plot_accuracy(result, picture, title=f"{name}, {config.model}")
    if json_out == "-":
        print_json(result)
        return
    if json_out is not None:
        Path(json_out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)
    out.print(Text(f"every answer: {log}\nplot: {picture}"))


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


def _parse(policies: str) -> tuple[PolicyName, ...]:
    known: tuple[PolicyName, ...] = get_args(PolicyName)
    chosen = [name.strip() for name in policies.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise ConfigurationError(f"policy {name!r} is unknown: take any of {', '.join(known)}")
    return tuple(name for wanted in chosen for name in known if name == wanted)


def _print(result: EvaluationResult) -> None:
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
                ", ".join(f"{arm} {count}" for arm, count in summary["arms"].items()),
            )
            for policy, summary in result["policies"].items()
        ],
    )
    failed = sum(summary["failed"] for summary in result["policies"].values())
    out.print(f"{result['rows']} questions" + (f", {failed} runs failed" if failed else ""))
