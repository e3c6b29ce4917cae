"""The `rttc` command: its groups, the flags before a command, and the way out on errors."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from rttc_graph.cli.command_context import CommandContext
from rttc_graph.cli.command_group import bare_option, command_group
from rttc_graph.cli.commands import (
    ask,
    cache,
    calibrate,
    db,
    demo,
    evaluate,
    kb,
    keys,
    models,
    rate,
    reward,
    serve,
    stats,
    status,
)
from rttc_graph.cli.error_exit import EXIT_INTERRUPTED, report
from rttc_graph.cli.learning.improve import improve
from rttc_graph.cli.setup.completion import answer_shells, print_completion
from rttc_graph.cli.setup.doctor import show_checks
from rttc_graph.cli.setup.init import write_settings
from rttc_graph.cli.talking.chat import chat

app = command_group(
    name="rttc",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Answer, judge, and only then spend more: reward-guided test-time compute.",
    epilog="Example: rttc ask 'What is 17 + 25?' --tau 0.6",
)
app.command("ask")(ask.ask_question)
app.command("chat")(chat)
app.command("eval")(evaluate.evaluate_file)
app.command("calibrate")(calibrate.calibrate_file)
app.command("improve")(improve)
app.command("rate")(rate.rate_run)
app.command("stats")(stats.show_stats)
app.command("demo")(demo.show_demo)
app.command("status")(status.show_status)
app.command("serve", cls=bare_option("--ray", "here"))(serve.serve)
app.command("mcp")(serve.serve_mcp)
app.command("ui")(serve.show_page)
app.command("init")(write_settings)
app.command("doctor")(show_checks)
app.command("completion")(print_completion)
app.add_typer(kb.app, name="kb")
app.add_typer(cache.app, name="cache")
app.add_typer(db.app, name="db")
app.add_typer(models.app, name="models")
app.add_typer(reward.app, name="reward")
app.add_typer(keys.app, name="keys")


_QUIET = (
    "bitsandbytes",  # peft imports it wherever it is; on some CPUs it wants a package from a hub
    "psycopg.pool",  # a connection that was lost is an error of ours, or in a ledger
)
"""Loggers of libraries that are heard with `--debug` alone, unless they tell of an error."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rttc-graph {version('rttc-graph')}")
        raise typer.Exit


@app.callback()
def read_flags(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file (default: ./rttc.toml, if there is one).")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder for models and data (default: RTTC_HOME, else ~/.rttc)."),
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="DSN of a Postgres database (default: an embedded server).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Policy model: short name, hub name, folder, PROVIDER:MODEL as openai:gpt-5, or "
            "an address as http://host/v1#MODEL (default: the setting model)."
        ),
    ] = None,
    reward_model: Annotated[
        str | None,
        typer.Option(
            "--reward",
            help="Reward model: minilm-judge, self-confidence, a hub name, a folder, the address "
            "of a server that gives scores, or a chat model that grades, as PROVIDER:MODEL or "
            "http://host/v1#MODEL (default: the setting reward).",
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="Embedder: short name, hub name, folder, PROVIDER:MODEL or http://host/v1#MODEL; "
            "a database belongs to one (default: the setting embedder)."
        ),
    ] = None,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show tracebacks of errors and warnings of libraries; may stand anywhere, also "
            "behind a command.",
        ),
    ] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Keep the flags for the command that follows."""
    del show_version, debug  # `main` has taken --debug out, wherever it stood
    flags = {"home": home, "database_url": database_url, "model": model}
    flags |= {"reward": reward_model, "embedder": embedder}
    context.obj = CommandContext(config, flags)


@functools.cache
def whole_command() -> Any:
    """Return the command with all below it, made once: Typer would make it anew at each call."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for a failed job, 2 for misuse."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        warnings.simplefilter("ignore")  # of libraries; ours are errors or ledger entries
        for library in _QUIET:
            logging.getLogger(library).setLevel(logging.ERROR)
    answer_shells()
    try:
        code = whole_command()([a for a in given if a != "--debug"], standalone_mode=False)
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - the way out of the process
        return report(exc, debug=debug)
    if code == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
        return report(KeyboardInterrupt(), debug=debug)
    return code if isinstance(code, int) else 0
