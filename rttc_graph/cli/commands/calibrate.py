"""`rttc calibrate`: what a reward is worth on questions of one's own, and the τr for an aim."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rttc_graph.arms import cascade_arms
from rttc_graph.calibration.aims import Aim, GatePoint, overview
from rttc_graph.calibration.map_fitting import FittedCalibration, FittedMap
from rttc_graph.calibration.proposal import Proposal
from rttc_graph.cli.calibration_table import list_calibrations, named, undo
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.plan_table import plans_as_json, print_plans
from rttc_graph.cli.screen import (
    GOES_ON,
    AsJson,
    ScreenWatcher,
    Yes,
    err,
    keeping,
    out,
    print_json,
    print_table,
)
from rttc_graph.cli.shared_options import (
    Best,
    ByFeatures,
    K,
    Limit,
    MaxNewTokens,
    RowDomain,
    Rubric,
    SamplesChoiceFlag,
    Scorer,
    ScorerModel,
    TargetAccuracy,
    TargetCost,
    TargetFlops,
    grader_settings,
    with_default,
)
from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import calibrated_fingerprint
from rttc_graph.jobs.collect_rows import ModelRows
from rttc_graph.jobs.fit_calibration import CalibrationWanted, fit_calibration
from rttc_graph.jobs.fit_ratings import FoundMap, RatingsWanted, fit_ratings
from rttc_graph.protocols import StoredCalibration

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files of questions with answers (default: none; then --records is needed)."
    ),
]
Save = Annotated[
    bool,
    typer.Option(
        "--save", help="Store the map: from then on this reward model's rewards are P(right)."
    ),
]
AllDomains = Annotated[
    bool,
    typer.Option(
        "--all-domains",
        help="With --save, use the map of all answers in every domain without a map of its own; "
        "else other domains keep what they have.",
    ),
]
FromLedger = Annotated[
    bool,
    typer.Option(
        "--from-ledger",
        help="Fit the map to the answers that people rated (rttc rate, POST /v1/feedback), not to "
        "questions of a file; τr, arms and plans stay as they are.",
    ),
]
Listed = Annotated[
    bool, typer.Option("--list", help="List the calibrations that are kept, and measure nothing.")
]
Undo = Annotated[
    bool,
    typer.Option(
        "--undo", help="Bring back what the last --save took the place of, and measure nothing."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed for drawing questions and for training.")]
Tenant = Annotated[
    str | None,
    typer.Option(help=with_default("Whose samples to use, and whose calibration it is", "tenant")),
]
Records = Annotated[
    Path | None,
    typer.Option(
        help="File that keeps every answer, as for rttc eval (default: in the home folder)."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="PNG of accuracy and cost over τr (default: rttc-calibrate-NAME.png)."),
]


def calibrate_file(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    paths: Paths = None,
    target_accuracy: TargetAccuracy = None,
    target_cost: TargetCost = None,
    target_flops: TargetFlops = None,
    best: Best = False,
    save: Save = False,
    all_domains: AllDomains = False,
    by_features: ByFeatures = False,
    from_ledger: FromLedger = False,
    listed: Listed = False,
    undone: Undo = False,
    yes: Yes = False,
    limit: Limit = None,
    seed: Seed = 0,
    scorer: Scorer = "auto",
    scorer_model: ScorerModel = None,
    rubric: Rubric = None,
    domain: RowDomain = None,
    k: K = None,
    samples_choice: SamplesChoiceFlag = None,
    max_new_tokens: MaxNewTokens = None,
    tenant: Tenant = None,
    records: Records = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Map the reward model's scores to P(right), and propose τr and the arms for an aim.

    Every arm answers every question once; answers that --records holds already are not made again.
    The scorer tells right from wrong, and the map with the lowest log-loss on held-out answers is
    chosen. Without an aim, the cheapest τr and arms within one standard error of the most accurate
    ones are proposed. With --save, the map is in use within a minute wherever this reward model
    judges in the domains of the questions, and so are the arms, by domain; other domains keep what
    they have.

    With --from-ledger, the map alone is fitted to ratings of stored runs, at least 10 right and 10
    wrong ones. People rate what they notice: if that is mostly wrong answers, P(right) is too low.

    Example: rttc calibrate questions.jsonl --limit 60 --target-accuracy 0.8 --save
    """
    config = command_context(context).config(
        k=k,
        samples_choice=samples_choice,
        max_new_tokens=max_new_tokens,
        tenant=tenant,
        seed=seed,
    )
    if listed:
        list_calibrations(config, as_json=as_json)
        return
    if undone:
        undo(config, yes=yes, as_json=as_json)
        return
    if from_ledger:
        _check_alone(paths, records, target_accuracy, target_cost, target_flops, best)
        ratings = RatingsWanted(
            save=save, all_domains=all_domains, by_features=by_features, plot=plot
        )
        with keeping("no calibration was saved"):
            found = fit_ratings(config, ratings, ScreenWatcher())
        if as_json:
            print_json(_ratings_as_json(found, saved=save))
        else:
            _show_ratings(found, saved=save)
        return
    wanted = CalibrationWanted(
        paths=paths or [],
        limit=limit,
        scorer=scorer,
        grader=grader_settings(scorer_model, rubric),
        domain=domain,
        aim=Aim(accuracy=target_accuracy, seconds=target_cost, flops=target_flops, best=best),
        save=save,
        all_domains=all_domains,
        by_features=by_features,
        records=records,
        plot=plot,
    )
    with keeping(f"no calibration was saved; {GOES_ON}"):
        fitted = fit_calibration(config, wanted, ScreenWatcher())
    if as_json:
        print_json(_as_json(fitted.proposal, fitted.stored, saved=save))
    else:
        _show(fitted.proposal, fitted.rows)
        out.print(Text(f"every answer: {fitted.log}\nplot: {fitted.plot}"))
        _say_how(fitted.stored, fitted.proposal, saved=save)


def _show(proposal: Proposal, rows: ModelRows) -> None:
    out.print(
        Text(
            f"{len(proposal.questions)} questions, reward model {rows.reward_model} "
            f"({rows.fingerprint[:8]}), policy model {rows.model}",
            style="bold",
        )
    )
    _show_maps(proposal.calibration)
    if all(point.gate.tau_r == 0 for point in proposal.points):
        err.print(Text("warning: so only gates that accept the first answer (τr = 0) are tried"))
    out.print()
    arms = cascade_arms()
    columns = ["", "arms of cascade", "τr", "accuracy", "seconds", *arms]
    columns += ["false accepts", "rejects"]
    print_table(
        columns,
        [
            (
                "→" if point is proposal.chosen else "",
                ", ".join(point.gate.arms),
                f"{point.gate.tau_r:.2f}",
                f"{point.accuracy:.1%}",
                f"{point.seconds:.2f}",
                *(f"{point.shares.get(arm, 0.0):.0%}" for arm in arms),
                f"{point.false_accepts:.1%}",
                f"{point.false_rejects:.1%}",
            )
            for point in overview(proposal.points, proposal.chosen, proposal.aim)
        ],
    )
    print_plans(proposal)


def _show_maps(calibration: FittedCalibration) -> None:
    """Print the maps, and say where they know nothing."""
    maps = {"all": calibration.pooled, **calibration.domains}
    columns = ["domain", "answers", "map", "log-loss: platt", "isotonic", "features", "constant"]
    columns.append("ECE")
    print_table(columns, [_map_row(domain, found) for domain, found in maps.items()])
    for domain, found in maps.items():
        if found.tells_nothing:
            err.print(
                Text(
                    f"warning: on {domain} the reward says no more than the share of right "
                    "answers does: no τr can choose well by it"
                )
            )


def _check_alone(paths: list[str] | None, *others: object) -> None:
    """Refuse what a calibration from ratings has no use for."""
    if paths or any(others):
        raise ConfigurationError(
            "--from-ledger takes no files, --records and no aim (--target-accuracy, --target-cost, "
            "--target-flops or --best): ratings are of one answer a run, so that neither τr nor "
            "arms can be chosen by them"
        )


def _show_ratings(found: FoundMap, *, saved: bool) -> None:
    answers = found.answers
    wrong = len(answers.runs) - answers.right
    head = f"{len(answers.runs)} rated answers, {answers.right} right and {wrong} wrong"
    model = f"reward model {found.reward_model} ({found.stored.fingerprint[:8]})"
    out.print(Text(f"{head}; {model}", style="bold"))
    for why, count in answers.left_out.items():
        out.print(Text(f"{count} left out: {why}"))
    _show_maps(found.calibration)
    out.print()
    print_table(["P(right) said", "found", "answers"], found.bins)
    out.print(Text(f"plot: {found.plot}"))
    out.print(
        "τr, arms and plans are as they were: only the answer that was returned is rated, not "
        "those of other arms; rttc calibrate FILE chooses them, and fits plans to the new map"
    )
    if not saved:
        out.print("not kept: add --save to use it")
        return
    fingerprint = calibrated_fingerprint(found.stored)
    out.print(Text(f'kept; a τr that is pinned needs tau_r_of = "{fingerprint}" now, and a new τr'))


def _ratings_as_json(found: FoundMap, *, saved: bool) -> dict[str, Any]:
    return {
        "reward_model": found.reward_model,
        "fingerprint": found.stored.fingerprint,
        "tau_r_of": calibrated_fingerprint(found.stored),
        "saved": saved,
        "ratings": {
            "right": found.answers.right,
            "wrong": len(found.answers.runs) - found.answers.right,
            "left_out": dict(found.answers.left_out),
        },
        "maps": {
            domain: _map_as_json(fitted)
            for domain, fitted in {
                "": found.calibration.pooled,
                **found.calibration.domains,
            }.items()
        },
        "bins": [one._asdict() for one in found.bins],
    }


def _map_as_json(found: FittedMap) -> dict[str, Any]:
    return {
        **found.map.to_json(),
        "pairs": found.pairs,
        "log_loss": dict(found.losses),
        "features": None if found.by_features is None else found.by_features.to_json(),
        "features_log_loss": found.features_loss,
        "constant_log_loss": found.constant_loss,
        "tells_nothing": found.tells_nothing,
        "ece": found.ece,
    }


def _map_row(domain: str, found: FittedMap) -> tuple[object, ...]:
    losses = (found.losses["platt"], found.losses["isotonic"])
    by_features = "" if found.features_loss is None else found.features_loss
    method = "features" if found.by_features else found.map.method
    return (domain, found.pairs, method, *losses, by_features, found.constant_loss, found.ece)


def _say_how(stored: StoredCalibration, proposal: Proposal, *, saved: bool) -> None:
    measured = dict.fromkeys(question.domain or "" for question in proposal.questions)
    for domain in measured:
        arms = ", ".join(proposal.arms.get(domain, proposal.arms[""]))
        out.print(Text(f"arms of cascade in {named([domain])}: {arms}"))
    if not saved:
        out.print("not kept: add --save to use it")
        return
    fingerprint = calibrated_fingerprint(stored)
    others = [domain for domain in stored.domains if domain not in measured]
    if others:
        out.print(Text(f"as they were: {named(others)}; τr is for the domains above"))
    lines = f'tau_r = {stored.tau_r:g}\ntau_r_of = "{fingerprint}"'
    out.print(
        Text(f"kept for {stored.aim}, arms and plans with it; put into rttc.toml:\n\n{lines}\n")
    )
    out.print('the plan is used with policy = "plan" (rttc ask --policy plan)')


def _as_json(proposal: Proposal, stored: StoredCalibration, *, saved: bool) -> dict[str, Any]:
    maps = {"": proposal.calibration.pooled, **proposal.calibration.domains}
    return {
        "reward_model": stored.reward_model,
        "fingerprint": stored.fingerprint,
        "tau_r": proposal.chosen.gate.tau_r,
        "arms": proposal.chosen.gate.arms,
        "tau_r_of": calibrated_fingerprint(stored),
        "aim": stored.aim,
        "saved": saved,
        "questions": len(proposal.questions),
        "maps": {
            domain: {"arms": proposal.arms[domain], **_map_as_json(found)}
            for domain, found in maps.items()
        },
        "points": [_flat(point) for point in proposal.points],
        **plans_as_json(proposal),
    }


def _flat(point: GatePoint) -> dict[str, Any]:
    values: dict[str, Any] = {**asdict(point), "accuracy": point.accuracy}
    for name in ("rights", "costs", "flops"):
        del values[name]
    if point.flops:
        values["flops"] = point.cost
    del values["gate"]["plan"]
    return {**values.pop("gate"), **values}
