"""`rttc eval`: the same questions under several policies, with what each got and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rttc_graph.arms import cascade_arms, policy_names
from rttc_graph.calibration.aims import Aim
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.policy_table import print_group, print_panels, print_verdicts
from rttc_graph.cli.screen import GOES_ON, AsJsonFile, ScreenWatcher, err, keeping, out, write_json
from rttc_graph.cli.shared_options import (
    ArmList,
    Best,
    ByFeatures,
    First,
    K,
    Limit,
    MaxNewTokens,
    PanelFrom,
    PanelSize,
    RowDomain,
    Rubric,
    SamplesChoiceFlag,
    Scorer,
    ScorerModel,
    TargetAccuracy,
    TargetCost,
    TargetFlops,
    Tau,
    grader_settings,
    split_names,
    with_default,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.panels.panel_specs import MIXED, PanelSpec, read_spec
from rttc_graph.jobs.measure_policies import Evaluation, EvaluationWanted, evaluate
from rttc_graph.settings import PolicyName
from rttc_graph.support.identity import unknown_name

_POLICIES = ",".join((*cascade_arms(), "compare", "cascade"))

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files of questions, or folders with questions.jsonl and perhaps samples.jsonl "
        "(default: none; then --rejudge is needed)."
    ),
]
Models = Annotated[
    str | None,
    typer.Option(help="Policy models, comma-separated (default: the setting model)."),
]
Policies = Annotated[
    str,
    typer.Option(
        help="Policies to measure, comma-separated. majority@16 and the like replay a strategy on "
        "panels that are drawn once, at 1, 2, 4, … 16 answers; mixed@16 votes over all sources, "
        "and majority@16:direct+rag names them."
    ),
]
Seed = Annotated[
    int, typer.Option(help="Seed for drawing questions, for sampling and for training.")
]
Draws = Annotated[
    int,
    typer.Option(
        min=1,
        help="Answers of each arm to each question, with --seed and the seeds after it; more than "
        "1 needs a temperature above 0. Policies are computed from the first.",
    ),
]
Tenant = Annotated[str | None, typer.Option(help=with_default("Whose samples to use", "tenant"))]
Real = Annotated[
    bool,
    typer.Option("--real", help="Run each policy instead of replaying it; takes one data set."),
]
UseCache = Annotated[
    bool,
    typer.Option("--cache", help="Run each policy, and let runs use the query-state cache."),
]
CollectOnly = Annotated[
    bool,
    typer.Option("--collect-only", help="Run each arm on each question, and measure nothing yet."),
]
Rejudge = Annotated[
    bool,
    typer.Option("--rejudge", help="Take the answers in --records as they are; run no arm."),
]
CrossFit = Annotated[
    bool,
    typer.Option("--cross-fit", help="Calibrate, and choose τr and arms, on the other questions."),
]
Records = Annotated[
    Path | None,
    typer.Option(
        help="File that keeps every answer, so that a killed run can go on (default: in the home "
        "folder)."
    ),
]
Report = Annotated[
    Path | None, typer.Option(help="Folder for a Markdown report with plots (default: none).")
]
Plot = Annotated[
    Path | None,
    typer.Option(help="PNG of accuracy against seconds (default: rttc-eval-NAME.png)."),
]


def evaluate_file(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    paths: Paths = None,
    models: Models = None,
    policies: Policies = _POLICIES,
    arms: ArmList = None,
    first_arm: First = None,
    limit: Limit = None,
    seed: Seed = 0,
    draws: Draws = 1,
    scorer: Scorer = "auto",
    scorer_model: ScorerModel = None,
    rubric: Rubric = None,
    domain: RowDomain = None,
    tau_r: Tau = None,
    search_n: PanelSize = None,
    search_from: PanelFrom = None,
    k: K = None,
    samples_choice: SamplesChoiceFlag = None,
    max_new_tokens: MaxNewTokens = None,
    tenant: Tenant = None,
    real: Real = False,
    use_cache: UseCache = False,
    collect_only: CollectOnly = False,
    rejudge: Rejudge = False,
    cross_fit: CrossFit = False,
    by_features: ByFeatures = False,
    target_accuracy: TargetAccuracy = None,
    target_cost: TargetCost = None,
    target_flops: TargetFlops = None,
    best: Best = False,
    records: Records = None,
    report: Report = None,
    plot: Plot = None,
    json_out: AsJsonFile = None,
) -> None:
    """Measure accuracy, seconds and tokens of policies on files of questions.

    Each arm runs once per question; what every policy would have answered and paid is computed from
    these rows. Answers are judged anew when the reward model has changed. The knowledge base must
    hold samples of the same domain, and none of the questions; samples.jsonl in a data set's folder
    is ingested before. With --cross-fit, each fifth gets its gate from the other four fifths. The
    last line says what the figures come to: whether something cheaper would do.

    Example: rttc eval banking/ math/ --models smollm2-135m-instruct,gemma-3-270m --report out
    """
    flags = {"tau_r": tau_r, "arms": arms, "first_arm": first_arm, "k": k}
    flags |= {"search_n": search_n, "search_from": search_from}
    flags |= {"samples_choice": samples_choice, "max_new_tokens": max_new_tokens, "tenant": tenant}
    chosen, panels = _parse(policies)
    wanted = EvaluationWanted(
        policies=chosen,
        panels=panels,
        paths=paths or [],
        models=split_names(models or ""),
        limit=limit,
        draws=draws,
        scorer=scorer,
        grader=grader_settings(scorer_model, rubric),
        domain=domain,
        real=real or use_cache,
        use_cache=use_cache,
        rejudge=rejudge,
        collect_only=collect_only,
        cross_fit=cross_fit,
        by_features=by_features,
        aim=Aim(accuracy=target_accuracy, seconds=target_cost, flops=target_flops, best=best),
        records=records,
        report=report,
        plot=plot,
    )
    config = command_context(context).config(**flags, seed=seed)
    with keeping(GOES_ON):
        found = evaluate(config, wanted, ScreenWatcher())
    _show(found, json_out)


def _show(found: Evaluation, json_out: str | None) -> None:
    files = f"every answer: {found.log}"
    if not found.groups and not found.panels:
        out.print(Text(files))
    elif write_json(found.to_json(), json_out):
        for group in found.groups:
            print_group(group)
        for panels in found.panels:
            print_panels(panels)
        out.print(Text(f"{files}\nplot: {found.plot}\n"))
        if found.groups:
            print_verdicts(found.groups)
    if found.report is not None:
        err.print(Text(f"report: {found.report}"))


def _parse(policies: str) -> tuple[tuple[PolicyName, ...], list[PanelSpec]]:
    """Return the policies that are named, and the strategies with a size."""
    known = policy_names()
    chosen = split_names(policies)
    panels = [read_spec(name) for name in dict.fromkeys(chosen) if "@" in name]
    named = [name for name in chosen if "@" not in name]
    for name in named:
        if name == MIXED:
            raise ConfigurationError(f"policy {MIXED!r} is replayed: write it as {MIXED}@16")
        if name not in known:
            raise ConfigurationError(f"--policies: {unknown_name(name, known)}")
    return tuple(name for wanted in named for name in known if name == wanted), panels
