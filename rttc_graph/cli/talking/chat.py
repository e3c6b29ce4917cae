"""`rttc chat`: questions and follow-ups, one after the other, with models that stay loaded."""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import ScreenWatcher, err, out, print_prose
from rttc_graph.cli.shared_options import (
    ArmList,
    K,
    MaxNewTokens,
    Policy,
    Tau,
    checked_domain,
    with_default,
)
from rttc_graph.cli.talking.conversation import Conversation
from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.installation.ask_question import AskResult, describe_event, fitting_history
from rttc_graph.jobs.fetch_models import fetch_missing
from rttc_graph.support.identity import MAX_TEXT_CHARACTERS

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc


def chat(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Domain of the knowledge base to search (default: all).", callback=checked_domain
        ),
    ] = None,
    policy: Policy = None,
    arms: ArmList = None,
    tau_r: Tau = None,
    k: K = None,
    max_new_tokens: MaxNewTokens = None,
    tenant: Annotated[
        str | None, typer.Option(help=with_default("Whose samples and cache to use", "tenant"))
    ] = None,
    rewrite: Annotated[
        bool,
        typer.Option(
            help="Let the policy model rewrite a follow-up into a question that stands alone, for "
            "the search."
        ),
    ] = True,
) -> None:
    """Talk: ask, ask on, and see in the background how each answer came about.

    A question may refer to those before it. /samples and /arms show what the last answer rests on,
    /new begins anew, /quit ends. Ctrl-C gives up the answer in the making. Nothing of the
    conversation is kept but the runs, as rttc ask keeps them.

    Example: rttc chat --domain banking
    """
    config = command_context(context).config(
        policy=policy,
        arms=arms,
        tau_r=tau_r,
        k=k,
        max_new_tokens=max_new_tokens,
        tenant=tenant,
        rewrite_follow_ups=rewrite,
    )
    from rttc_graph.installation.local import open_local

    watcher = ScreenWatcher()
    with open_local(config) as local, asyncio.Runner() as runner:
        if domain or config.domain:
            with watcher.step("opening the knowledge base"):
                runner.run(local.check_domain(domain))
        with watcher.step(fetch_missing(config, watcher)):
            runner.run(local.warm_up(needs_database=False))
        _talk(local, runner, watcher, domain)


def _talk(
    local: LocalRttc, runner: asyncio.Runner, watcher: ScreenWatcher, domain: str | None
) -> None:
    talk = Conversation()
    print_prose("ask something; /help shows the commands, /quit ends", style="dim")
    for line in _lines():
        if line.startswith("/"):
            talk.obey(line)
        elif line:
            _answer(line, talk, local, runner, watcher, domain)
        if talk.is_over:
            return


def _lines() -> Iterator[str]:
    """Yield what a person types or pastes, until the input ends; a paste may have many lines."""
    with suppress(ImportError):
        readline = importlib.import_module("readline")  # gives `input` its editing and arrow keys
        readline.parse_and_bind("set enable-bracketed-paste on")  # else each line is a question
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no UTF-8 end no conversation
    prompt = "› " if sys.stdin.isatty() else ""  # noqa: RUF001 - as a prompt
    while True:
        try:
            yield input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            out.print()
            return


def _answer(
    question: str,
    talk: Conversation,
    local: LocalRttc,
    runner: asyncio.Runner,
    watcher: ScreenWatcher,
    domain: str | None,
) -> None:
    def show(event: dict[str, Any]) -> None:
        if (text := describe_event(event)) is not None:
            watcher.describe(text)

    settings = local.config.run_settings(domain or local.config.domain)

    async def ask() -> tuple[AskResult, int]:
        before = talk.history
        fitting = await fitting_history(local.policy.model, question, before, settings)
        result = await local.ask(question, domain=domain, on_event=show, history=fitting)
        return result, len(before) - len(fitting)

    try:
        with watcher.step("answering"):
            result, left_out = runner.run(ask())
    except KeyboardInterrupt:
        print_prose("given up; the conversation before it is kept", style="yellow")
        return
    except ConfigurationError as exc:
        is_too_long = len(question) > MAX_TEXT_CHARACTERS
        if not talk.turns and not is_too_long:  # a wrong domain or policy will not become right
            raise
        err.print(Text(f"rttc: {exc}"))
        return
    except RttcError as exc:
        err.print(Text(f"rttc: {exc}; the conversation is kept: ask again, or /new begins anew"))
        return
    talk.add(question, result, left_out=left_out)
