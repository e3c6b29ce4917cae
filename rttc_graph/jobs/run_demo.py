"""The demo: a support desk, and questions that take different routes through the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rttc_graph.evaluation.scorers import is_right, normalised
from rttc_graph.installation.ask_question import AskResult, describe_event
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.jobs.fetch_models import fetch_models
from rttc_graph.jobs.support_desk import asked_questions, known_questions
from rttc_graph.jobs.watching import Watcher
from rttc_graph.protocols import NewSample
from rttc_graph.samples import Samples, read_samples
from rttc_graph.samples.ingest import IngestProgress, ingest
from rttc_graph.settings import RttcSettings

if TYPE_CHECKING:
    from rttc_graph.installation.local import LocalRttc

TENANT = "demo"
"""The demo's samples and cache stay apart from the user's."""

MAX_NEW_TOKENS = 32
"""The demo's answers are short; a small model that finds no end rambles to the limit."""


class DemoAnswer(AskResult):
    """One answer of the demo."""

    question: str
    expected: str | None
    """Right answer; `None` for a question of the user's own."""
    right: bool | None
    """Whether the answer is right, where that is known."""


def run_demo(
    config: InstallationConfig,
    watcher: Watcher,
    on_answer: Callable[[str, DemoAnswer], None],
    *,
    path: str | None = None,
    question: str | None = None,
) -> list[DemoAnswer]:
    """Ingest the demo's samples, ask its questions, and return the answers.

    Args:
        config: Names models and database; see `TENANT` and `MAX_NEW_TOKENS`.
        watcher: Is shown the progress.
        on_answer: Called with the title of each question and its answer, as they come.
        path: File of further samples.
        question: Asked after the demo's own.

    Raises:
        RttcError: A file, a model or the database is unavailable.
    """
    from rttc_graph.installation.local import open_local

    fetch_models(config, watcher)
    with open_local(config) as local:
        return asyncio.run(_run(local, watcher, on_answer, path, question))


async def _run(
    local: LocalRttc,
    watcher: Watcher,
    on_answer: Callable[[str, DemoAnswer], None],
    path: str | None,
    question: str | None,
) -> list[DemoAnswer]:
    await _fill(local, [known_questions(), *([read_samples(path)] if path else [])], watcher)
    with watcher.step("loading the model"):
        await local.warm_up()
    await local.knowledge.cache.purge(tenant=TENANT)  # so that each demo shows the same routes
    answers: list[DemoAnswer] = []
    for title, row, settings in asked_questions():
        result = await _ask(local, title, row, settings, watcher)
        right = is_right(result["answer"], row) or _says(result["answer"], row.answer)
        answers.append({"question": row.question, "expected": row.answer, "right": right, **result})
        on_answer(title, answers[-1])
    if question is not None:
        own = NewSample(question=question, answer="", domain="")
        result = await _ask(local, "your question", own, None, watcher)
        answers.append({"question": question, "expected": None, "right": None, **result})
        on_answer("your question", answers[-1])
    return answers


async def _fill(
    local: LocalRttc, sources: Sequence[Samples | list[NewSample]], watcher: Watcher
) -> None:
    knowledge = local.knowledge
    for source in sources:
        with watcher.step("samples") as advance:

            def show(done: IngestProgress) -> None:
                advance(done.rows, done.total)

            report = await ingest(
                source,
                knowledge.knowledge_base,
                knowledge.embedder,
                tenant=TENANT,
                on_progress=show,
            )
        watcher.tell(
            f"{report.stored} samples stored, {report.already} were there ({report.seconds:.0f} s)"
        )


async def _ask(
    local: LocalRttc,
    title: str,
    asked: NewSample,
    settings: RttcSettings | None,
    watcher: Watcher,
) -> AskResult:
    def show(event: dict[str, Any]) -> None:
        if (text := describe_event(event)) is not None:
            watcher.describe(text)

    with watcher.step(title):
        return await local.ask(
            asked.question, domain=asked.domain or None, settings=settings, on_event=show
        )


def _says(answer: str, expected: str) -> bool:
    """Tell whether a sentence has the expected words in it, as in "It is Moscow."."""
    return f" {normalised(expected)} " in f" {normalised(answer)} "
