"""`rttc improve`: an adapter of a domain's own, from accepted answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import (
    GOES_ON,
    AsJson,
    ScreenWatcher,
    Yes,
    confirm,
    keeping,
    out,
    print_json,
    print_table,
)
from rttc_graph.cli.shared_options import MaxNewTokens, checked_tenant, with_default
from rttc_graph.evaluation.intervals import shown_difference
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.improvement.self_training import ImprovementSettings, training_settings
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.learning.improve_domain import (
    DomainImprovement,
    ImprovementWanted,
    improve_domain,
    undo_improvement,
)

Rounds = Annotated[
    int,
    typer.Option(
        help="Most rounds: each is trained from the base, on what the one before it drew."
    ),
]
Draws = Annotated[int, typer.Option(help="Most answers to draw for a question.")]
Limit = Annotated[int, typer.Option(help="Most questions, held-out ones among them.")]
HeldOut = Annotated[
    float, typer.Option(help="Share of the questions of known outcome to hold out for the trial.")
]
Chance = Annotated[
    float,
    typer.Option(
        help="How strict the trial is: keep an adapter if chance alone gains as much with at most "
        "this probability."
    ),
]
Unrated = Annotated[
    bool,
    typer.Option(
        "--unrated",
        help="Learn from runs that nobody rated too, where most draws agree and P(right) is at "
        "least --bound. Needs a calibration of the domain.",
    ),
]
Bound = Annotated[float, typer.Option(help="P(right) from which on --unrated trusts an answer.")]
Revisions = Annotated[
    bool,
    typer.Option(
        "--revisions",
        help="Learn to give the right answer after wrong ones too, for the policy revise.",
    ),
]
Scorer = Annotated[
    ScorerName,
    typer.Option(help="How right answers are told from wrong ones; auto: by the references."),
]
Epochs = Annotated[int, typer.Option(help="Passes over the accepted answers.")]
PerStep = Annotated[int, typer.Option(help="Answers of one step of the training.")]
LearningRate = Annotated[
    float, typer.Option(help="Learning rate of AdamW; 0 takes the one of test-time training.")
]
Temperature = Annotated[
    float, typer.Option(help="Sampling temperature of all draws but the first.")
]
Seed = Annotated[int, typer.Option(help="Seed for drawing questions and answers.")]
Tenant = Annotated[
    str | None,
    typer.Option(
        help=with_default("Whose samples, runs and adapter", "tenant"), callback=checked_tenant
    ),
]
Records = Annotated[
    Path | None,
    typer.Option(help="File that keeps every drawn answer (default: in the home folder)."),
]
Undo = Annotated[
    bool,
    typer.Option(
        "--undo",
        help="Take the domain's adapter away, so that the one before it, or the plain model, "
        "answers again; train nothing.",
    ),
]


def improve(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="Domain of the knowledge base.")],
    rounds: Rounds = 1,
    draws: Draws = 4,
    limit: Limit = 400,
    held_out: HeldOut = 0.3,
    chance: Chance = 0.05,
    unrated: Unrated = False,
    bound: Bound = 0.9,
    revisions: Revisions = False,
    scorer: Scorer = "auto",
    epochs: Epochs = 2,
    per_step: PerStep = 8,
    learning_rate: LearningRate = 0.0,
    temperature: Temperature = 0.7,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    tenant: Tenant = None,
    records: Records = None,
    undone: Undo = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Train the policy model on a domain's accepted answers: one adapter, the domain's own.

    The model answers the domain's solved samples; answers that reach the known result are what it
    learns, next to those that people rated right or gave (rttc rate). Questions that are held out
    are answered without the adapter and with it. If it gains more than chance does, it takes the
    place of the plain model in the domain, within a minute; else nothing changes. Adapters of
    test-time training then begin with it. What the query-state cache and calibrations hold of the
    plain model's answers is no longer used there: run rttc calibrate again.

    Example: rttc improve sums --rounds 2
    """
    config = command_context(context).config(
        tenant=tenant, max_new_tokens=max_new_tokens, seed=seed
    )
    if undone:
        _undo(config, domain, yes=yes, as_json=as_json)
        return
    run = config.run_settings(domain)
    settings = ImprovementSettings(
        rounds=rounds,
        draws=draws,
        temperature=temperature,
        chance=chance,
        bound=bound,
        revisions=revisions,
        scorer=scorer,
        max_new_tokens=run.max_new_tokens,
        stop=run.stop_strings,
        seed=seed,
        prompts=run.prompts,
        training=training_settings(
            run.ttt, epochs=epochs, samples_per_step=per_step, learning_rate=learning_rate
        ),
    )
    wanted = ImprovementWanted(
        domain=domain,
        settings=settings,
        limit=limit,
        held_out=held_out,
        unrated=unrated,
        records=records,
    )
    with keeping(f"no adapter was kept; {GOES_ON}"):
        found = improve_domain(config, wanted, ScreenWatcher())
    if as_json:
        print_json(found.card)
    else:
        _show(found)


def _show(found: DomainImprovement) -> None:
    card = found.card
    questions = card["questions"]
    out.print(
        Text(
            f"{card['domain']}: {questions['training']} questions to learn, "
            f"{questions['held_out']} held out, policy model {card['base']}",
            style="bold",
        )
    )
    columns = ["round", "lessons", "steps", "right before", "after", "difference", "chance"]
    print_table(columns, [_row(n, one) for n, one in enumerate(card["rounds"], start=1)])
    out.print(Text(f"every drawn answer: {found.log}"))
    if not found.is_kept:
        out.print(Text(f"not kept: {card['why']}"))
        return
    out.print(Text(f"kept: {card['why']}; it answers in the domain {card['domain']!r} from now on"))
    out.print(
        "calibrations of the domain are of the model before: run rttc calibrate again; "
        "rttc improve DOMAIN --undo goes back"
    )


def _row(number: int, one: Mapping[str, Any]) -> tuple[object, ...]:
    lessons = ", ".join(f"{count} {kind}" for kind, count in one["lessons"].items())
    return (
        number,
        lessons,
        one["steps"],
        f"{one['before']:.1%}",
        f"{one['after']:.1%}",
        shown_difference(one["difference"], one["questions"]),
        f"{one['luck']:.2g}",
    )


def _undo(config: InstallationConfig, domain: str, *, yes: bool, as_json: bool) -> None:
    from rttc_graph.installation.local import open_local

    confirm(f"Take away the adapter of the domain {domain!r}?", yes=yes)
    with open_local(config) as local:
        now = asyncio.run(undo_improvement(local, domain))
    if as_json:
        print_json({"domain": domain, "adapter": None if now is None else now.key})
        return
    said = (
        "the plain model answers again"
        if now is None
        else f"the adapter of {now.card.get('made_at', 'before')} answers again"
    )
    out.print(Text(f"undone: {said} in the domain {domain!r}; run rttc calibrate again"))
