"""`rttc demo`: from an empty folder to answers of every route, with what each one took."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.rule import Rule
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.commands.ask import print_result
from rttc_graph.cli.screen import AsJson, ScreenWatcher, out, print_json
from rttc_graph.jobs.run_demo import MAX_NEW_TOKENS, TENANT, DemoAnswer, run_demo


def show_demo(
    context: typer.Context,
    path: Annotated[
        str | None,
        typer.Argument(
            help="File of your own samples, ingested beside the demo's (default: none)."
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Your own question, asked after the demo's (default: none).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest the FAQ of a made-up shop and ask questions that take different routes.

    The first call downloads the models; everything runs on this machine.

    Example: rttc demo solved.jsonl --question 'Why was my card declined?'
    """
    config = command_context(context).config(tenant=TENANT, max_new_tokens=MAX_NEW_TOKENS)

    def show(title: str, answer: DemoAnswer) -> None:
        if not as_json:
            _print(title, answer)

    answers = run_demo(config, ScreenWatcher(), show, path=path, question=question)
    if as_json:
        print_json(answers)


def _print(title: str, answer: DemoAnswer) -> None:
    out.print(Rule(Text(title), align="left"))
    out.print(Text(answer["question"] + "\n"))
    print_result(answer)
    if answer["expected"] is not None:
        verdict = "right" if answer["right"] else "wrong"
        out.print(Text(f"{verdict}; the answer is {answer['expected']}"))
    out.print()
