"""`rttc demo`: from an empty folder to answers of every route, with what each one took."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.rule import Rule
from rich.text import Text

from rttc_graph.asking import AskResult
from rttc_graph.cli.ask import event_line, print_result
from rttc_graph.cli.screen import AsJson, err, out, print_json, progress
from rttc_graph.cli.session import session
from rttc_graph.config import InstallationConfig
from rttc_graph.data import read_samples
from rttc_graph.demo_samples import DemoQuestion, questions, samples
from rttc_graph.ingest import IngestProgress, ingest
from rttc_graph.settings import RttcSettings

if TYPE_CHECKING:
    from rttc_graph.local import LocalRttc

TENANT = "demo"
"""The demo's samples and cache stay apart from the user's."""


def run_demo(
    context: typer.Context,
    path: Annotated[
        str | None, typer.Argument(help="Your own samples, to be ingested beside the demo's.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Your own question, asked after the demo's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest a small knowledge base and ask questions that take different routes.

    The first time it fetches the models; everything runs on this machine.

    Example: rttc demo solved.jsonl --question 'Why was my card declined?'
    """
    from rttc_graph.local import open_local

    config = session(context).config(tenant=TENANT)
    fetch_models(config)
    asked = questions()
    if question is not None:
        asked = [*asked, DemoQuestion(question=question, domain=None, shows="your own question")]
    with progress("samples", total=0) as bar, open_local(config) as local:
        asyncio.run(_fill(local, path, bar))
        bar.update(bar.task_ids[0], description="loading the models", total=None)
        results = asyncio.run(_ask_all(local, asked, bar, show=not as_json))
    if as_json:
        print_json(results)


def fetch_models(config: InstallationConfig) -> None:
    """Fetch what is not here yet, saying what is going on."""
    from rttc_graph.integrations.transformers.weights import resolve

    started = time.monotonic()
    with progress("models") as bar:
        for name in (config.model, config.embedder):
            resolve(
                name,
                cache_dir=config.home,
                progress=lambda what: bar.update(bar.task_ids[0], description=what),
            )
    err.print(f"models are ready ({time.monotonic() - started:.0f} s)")


async def _fill(local: LocalRttc, path: str | None, bar: Progress) -> None:
    def show(done: IngestProgress) -> None:
        bar.update(bar.task_ids[0], completed=done.rows, total=done.total)

    knowledge = local.knowledge
    for source in [samples()] if path is None else [samples(), read_samples(path)]:
        report = await ingest(
            source,
            knowledge.knowledge_base,
            knowledge.embedder,
            tenant=TENANT,
            on_progress=show,
        )
        err.print(f"{report.stored} samples stored, {report.already} were there ({report.seconds:.0f} s)")


async def _ask_all(
    local: LocalRttc, asked: list[DemoQuestion], bar: Progress, *, show: bool
) -> list[AskResult]:
    await local.warm_up()
    results: list[AskResult] = []
    for one in asked:
        settings = RttcSettings.of(one.settings, defaults=local.config.run_settings())
        result = await local.ask(
            one.question, domain=one.domain, settings=settings, on_event=event_line(bar)
        )
        results.append(result)
        if show:
            out.print(Rule(Text(one.shows), align="left"))
            out.print(Text(f"{one.question}\n"))
            print_result(result)
            out.print()
    return results
