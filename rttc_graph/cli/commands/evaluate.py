"""`rttc eval`: the same questions under several policies, with what each got and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rttc_graph.arms import PLANS, arms_of_policies, cascade_arms, policy_names
from rttc_graph.calibration.aims import Aim
from rttc_graph.calibration.proposal import cross_fitted
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.policy_table import print_policies, print_result
from rttc_graph.cli.screen import AsJsonFile, ScreenWatcher, check_outputs, err, out, write_json
from rttc_graph.cli.shared_options import (
    Best,
    First,
    K,
    Limit,
    MaxNewTokens,
    RowDomain,
    SamplesChoiceFlag,
    Scorer,
    TargetAccuracy,
    TargetCost,
    Tau,
    split_names,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.accuracy_plot import plot_accuracy
from rttc_graph.evaluation.policy_figures import GroupFigures, grouped
from rttc_graph.evaluation.replay import Gate
from rttc_graph.evaluation.report import REPORT, ReportInput, group_name, write_report
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.evaluation.summary import EvaluationResult
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.collect_rows import (
    ModelRows,
    RowsWanted,
    collect_rows,
    judge_rows,
    questions_of_models,
    rows_settings,
    run_name,
    wanted_data_sets,
)
from rttc_graph.jobs.run_policies import evaluate_for_real
from rttc_graph.settings import PolicyName
from rttc_graph.support.extras import require_evaluation

_POLICIES = ",".join((*cascade_arms(), *reversed(PLANS)))


def evaluate_file(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Files of questions, or folders with questions.jsonl, samples.jsonl."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Policy models, comma-separated; the configured one.")
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies, comma-separated.")] = _POLICIES,
    first_arm: First = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of the draw, sampling and training.")] = 0,
    scorer: Scorer = "auto",
    domain: RowDomain = None,
    tau: Tau = None,
    k: K = None,
    samples_choice: SamplesChoiceFlag = None,
    max_new_tokens: MaxNewTokens = None,
    tenant: Annotated[str | None, typer.Option(help="Whose samples.")] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Run each policy instead of replaying it; one file.")
    ] = False,
    use_cache: Annotated[
        bool, typer.Option("--cache", help="With --real: let runs use the query-state cache.")
    ] = False,
    collect_only: Annotated[
        bool, typer.Option("--collect-only", help="Run each arm once per question, and no more.")
    ] = False,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Take the rows of --records as they are; run no arm.")
    ] = False,
    cross_fit: Annotated[
        bool, typer.Option("--cross-fit", help="Calibrate, choose τr and first arm on the others.")
    ] = False,
    target_accuracy: TargetAccuracy = None,
    target_cost: TargetCost = None,
    best: Best = False,
    records: Annotated[
        Path | None, typer.Option(help="File of every answer; it lets a killed run go on.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a Markdown report with plots.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of accuracy against cost; rttc-eval-NAME.png.")
    ] = None,
    json_out: AsJsonFile = None,
) -> None:
    """Measure accuracy, seconds and tokens of policies on files of questions.

    Each arm runs once per question; what every policy would have answered and paid is worked out
    from these rows. Rows that are there are judged anew when the reward model has changed. The
    knowledge base must hold samples of the same domain, and none of the questions; a samples.jsonl
    in the folder of a data set is ingested before. With --cross-fit, each fifth of the questions is
    measured with the calibration, and in each data set with the τr and the first arm, that the
    other four fifths give.

    Example: rttc eval banking/ math/ --models smollm2-135m-instruct,gemma-3-270m --report out
    """
    config = command_context(context).config(
        tau_r=tau,
        first_arm=first_arm,
        k=k,
        samples_choice=samples_choice,
        max_new_tokens=max_new_tokens,
        tenant=tenant,
        seed=seed,
    )
    chosen = _parse(policies)
    aim = Aim(accuracy=target_accuracy, seconds=target_cost, best=best)
    if not cross_fit and aim != Aim():
        raise ConfigurationError("--target-accuracy, --target-cost and --best need --cross-fit")
    if not paths and not rejudge:
        raise ConfigurationError("no questions: name a file or a folder, or give --rejudge")
    data_sets, samples = wanted_data_sets(paths or [], limit=limit, seed=seed)
    name = run_name(data_sets, records)
    log = records or config.home / "evaluations" / f"{name}.jsonl"
    where = _Where(
        log,
        plot or Path(f"rttc-eval-{name}.png"),
        report,
        json_out,
        name,
        aim if cross_fit else None,
    )
    check_outputs(json_out, logs=[log, where.picture, *([report / REPORT] if report else [])])
    require_evaluation()
    if real or use_cache:
        if len(data_sets) != 1 or models or report or rejudge:
            raise ConfigurationError(
                "--real takes one file of questions and none of --models, --report, --rejudge"
            )
        result, log = evaluate_for_real(
            config,
            data_sets[0],
            chosen,
            ScreenWatcher(),
            scorer=scorer,
            domain=domain,
            use_cache=use_cache,
            records=records,
        )
        _show_real(config, result, replace(where, log=log))
        return
    if rejudge:
        found = judge_rows(config, log, ScreenWatcher())
    else:
        wanted = RowsWanted(
            data_sets=data_sets,
            samples=samples,
            domain=domain,
            log=log,
            arms=arms_of_policies(chosen),
        )
        named = split_names(models or config.model)
        configs = [config.model_copy(update={"model": name}) for name in named]
        found = collect_rows(configs, wanted, ScreenWatcher())
    if collect_only:
        out.print(Text(f"every answer: {log}"))
        return
    _report(config, found, chosen, scorer, where)


@dataclass(frozen=True, slots=True)
class _Where:
    """Where the figures go."""

    log: Path
    picture: Path
    report: Path | None
    json_out: str | None
    name: str
    aim: Aim | None
    """Of the cross-fitting, if there is any."""


def _show_real(config: InstallationConfig, result: EvaluationResult, where: _Where) -> None:
    """Write the figures of runs for real wherever they were asked for."""
    title = f"{where.name}, {config.model}"
    plot_accuracy(result["policies"], where.picture, rows=result["rows"], title=title)
    if write_json(result, where.json_out):
        print_result(result)
        out.print(Text(f"every answer: {where.log}\nplot: {where.picture}"))


def _report(
    config: InstallationConfig,
    found: list[ModelRows],
    policies: tuple[PolicyName, ...],
    scorer: ScorerName,
    where: _Where,
) -> None:
    """Work out the figures of the rows and write them wherever they were asked for."""
    raw = questions_of_models(found, scorer=scorer, calibrated=False)
    if where.aim is None:
        for rows in found:
            rows.check_threshold(config)
        questions = questions_of_models(found, scorer=scorer)
        gates = [Gate(tau_r=config.tau_r, first_arm=config.first_arm)]
        groups = grouped(questions, policies, lambda question: gates[0])
        calibrated = ", ".join("yes" if rows.calibration else "no" for rows in found)
    else:
        fitted = [
            pair
            for rows in found
            for pair in cross_fitted([q for q in raw if q.model == rows.model], where.aim)
        ]
        questions = [question for question, _ in fitted]
        gate_of = {(q.data_set, q.model, q.row): gate for q, gate in fitted}
        gates = list(gate_of.values())
        groups = grouped(questions, policies, lambda q: gate_of[q.data_set, q.model, q.row])
        calibrated = "cross-fitted"
    settings = {
        "policy models": ", ".join(rows.model for rows in found),
        "reward model": ", ".join(dict.fromkeys(rows.reward_model for rows in found)),
        "calibrated": calibrated,
        **_shown(gates),
        **({"aim of the gates": str(where.aim)} if where.aim else {}),
        **rows_settings(found),
    }
    plot_accuracy(groups[0]["policies"], where.picture, rows=groups[0]["rows"], title=where.name)
    result = {**groups[0], "groups": groups, "settings": settings}
    if write_json(result, where.json_out):
        for group in groups:
            _print(group)
        out.print(Text(f"every answer: {where.log}\nplot: {where.picture}"))
    if where.report is not None:
        has_map = where.aim is not None or any(rows.calibration for rows in found)
        written = write_report(
            ReportInput(
                title=f"Evaluation of {where.name}",
                groups=groups,
                questions=questions if has_map else raw,
                raw=raw,
                settings=settings,
            ),
            where.report,
        )
        err.print(Text(f"report: {written}"))


def _shown(gates: Sequence[Gate]) -> dict[str, str]:
    """Return the settings of gates in words."""
    low, high = min(gate.tau_r for gate in gates), max(gate.tau_r for gate in gates)
    return {
        "first arm": ", ".join(dict.fromkeys(gate.first_arm for gate in gates)),
        "τr": f"{low:g}" if low == high else f"{low:g} to {high:g}",
    }


def _parse(policies: str) -> tuple[PolicyName, ...]:
    known = policy_names()
    chosen = split_names(policies)
    for name in chosen:
        if name not in known:
            raise ConfigurationError(f"policy {name!r} is unknown: take any of {', '.join(known)}")
    return tuple(name for wanted in chosen for name in known if name == wanted)


def _print(group: GroupFigures) -> None:
    out.print(Text(group_name(group), style="bold"))
    print_policies(group["policies"])
    failed = sum(policy["failed"] for policy in group["policies"].values())
    out.print(f"{group['rows']} questions" + (f", {failed} answers missing" if failed else ""))
    out.print()
