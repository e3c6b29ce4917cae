"""`rttc demo`: from an empty folder to answers of every route, with what each one took."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.rule import Rule
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.commands.ask import event_line, print_result
from rttc_graph.cli.screen import AsJson, err, out, print_json, progress
from rttc_graph.evaluation.scorers import is_right, normalised
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.demo_samples import easy_questions, questions, samples
from rttc_graph.protocols import NewSample
from rttc_graph.samples import Samples, read_samples
from rttc_graph.samples.ingest import IngestProgress, ingest
from rttc_graph.samples.rows import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc

TENANT = "demo"
"""The demo's samples and cache stay apart from the user's."""

SAMPLES_PER_TASK = 100

MAX_NEW_TOKENS = 64
"""The demo's answers are short; without samples a small model rambles to the limit."""


def run_demo(
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
    """Ingest a small knowledge base and ask questions that take different routes.

    The first call downloads the models; everything runs on this machine.

    Example: rttc demo solved.jsonl --question 'Why was my card declined?'
    """
    config = command_context(context).config(tenant=TENANT, max_new_tokens=MAX_NEW_TOKENS)
    fetch_models(config)
    from rttc_graph.installation.local import open_local

    with progress("samples", total=0) as bar, open_local(config) as local:
        results = asyncio.run(_run(local, path, question, bar, show=not as_json))
    if as_json:
        print_json(results)


def fetch_models(config: InstallationConfig) -> None:
    """Fetch what is not here yet, saying what is going on."""
    from rttc_graph.installation.needed_models import needed_models
    from rttc_graph.integrations.transformers.weight_files.resolve import resolve

    started = time.monotonic()
    with progress("models") as bar:
        for name in needed_models(config):
            resolve(
                name,
                cache_dir=config.home,
                progress=lambda what: bar.update(bar.task_ids[0], description=what),
            )
    err.print(f"models are ready ({time.monotonic() - started:.0f} s)")


async def _run(
    local: LocalRttc, path: str | None, question: str | None, bar: Progress, *, show: bool
) -> list[dict[str, Any]]:
    known = samples(SAMPLES_PER_TASK)
    await _fill(local, known, path, bar)
    bar.update(bar.task_ids[0], description="loading the model", total=None)
    await local.warm_up()
    await local.knowledge.cache.purge(tenant=TENANT)  # so that each demo shows the same routes
    results: list[dict[str, Any]] = []
    for title, row in script(known):
        results.append(await _ask(local, title, row, bar, show=show))
    if question is not None:
        bar.update(bar.task_ids[0], description="your question")
        result = await local.ask(question, on_event=event_line(bar))
        results.append({"question": question, "expected": None, "right": None, **result})
        if show:
            _print("your question", results[-1])
    return results


def script(known: list[NewSample]) -> list[tuple[str, NewSample]]:
    """Return the questions in the order in which they are asked, each with what it shows."""
    asked: dict[str, list[NewSample]] = {}
    for row in questions(5, apart_from=known):
        asked.setdefault(row.domain, []).append(row)
    hard = asked["word-order"][4]  # of ten of its kind, two are right after training alone
    return [
        ("the plain model is sure enough", easy_questions()[0]),
        ("below τr: samples go into the prompt", asked["sentences"][1]),
        ("another question of that kind", asked["sentences"][0]),
        ("below τr with samples too: an adapter is trained on them", hard),
        ("the same once more: the adapter is recalled", hard),
    ]


async def _fill(local: LocalRttc, known: list[NewSample], path: str | None, bar: Progress) -> None:
    def show(done: IngestProgress) -> None:
        bar.update(bar.task_ids[0], completed=done.rows, total=done.total)

    knowledge = local.knowledge
    sources: list[Samples | list[NewSample]] = [known]
    if path is not None:
        sources.append(read_samples(path))
    for source in sources:
        report = await ingest(
            source,
            knowledge.knowledge_base,
            knowledge.embedder,
            tenant=TENANT,
            on_progress=show,
        )
        err.print(
            f"{report.stored} samples stored, {report.already} were there ({report.seconds:.0f} s)"
        )


async def _ask(
    local: LocalRttc, title: str, row: NewSample, bar: Progress, *, show: bool
) -> dict[str, Any]:
    domain = None if row.domain == DEFAULT_DOMAIN else row.domain  # general: among all samples
    result = await local.ask(row.question, domain=domain, on_event=event_line(bar))
    whole = {
        "question": row.question,
        "expected": row.answer,
        "right": is_right(result["answer"], row) or _says(result["answer"], row.answer),
        **result,
    }
    if show:
        _print(title, whole)
    return whole


def _says(answer: str, expected: str) -> bool:
    """Tell whether a sentence has the expected words in it, as in "It is Moscow."."""
    return f" {normalised(expected)} " in f" {normalised(answer)} "


def _print(title: str, result: dict[str, Any]) -> None:
    out.print(Rule(Text(title), align="left"))
    out.print(Text(result["question"] + "\n"))
    print_result(result)  # type: ignore[arg-type]
    if result["expected"] is not None:
        verdict = "right" if result["right"] else "wrong"
        out.print(Text(f"{verdict}; the answer is {result['expected']}"))
    out.print()
