"""`rttc kb ingest`: solved questions of a table, or the passages of a document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.knowledge.filter_options import Tenant
from rttc_graph.cli.screen import AsJson, keeping, out, print_json, print_prose, progress
from rttc_graph.cli.shared_options import checked_domain
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.protocols import NewSample
from rttc_graph.protocols.managed_knowledge_base import SampleFilter, StoredSample
from rttc_graph.samples import Samples, read_samples
from rttc_graph.samples.document_ingest import delete_vanished, vanished_passages
from rttc_graph.samples.documents import is_document, read_document
from rttc_graph.samples.ingest import IngestProgress, IngestReport, ingest
from rttc_graph.samples.likeness import compare_samples
from rttc_graph.samples.preview import IngestPreview, SampleUpdate, preview_ingest
from rttc_graph.samples.rows import DEFAULT_DOMAIN, ColumnNames
from rttc_graph.support.named_files import check_file

__all__ = ("ingest_file",)

T = TypeVar("T")

_SHOWN_UPDATES = 20
_MOST_CHECKED = 5000
"""Samples of a domain up to which an ingest looks for contradictions in it."""

_SHOWN_CHARACTERS = 100
_SHOWN_ID = 8


@dataclass(frozen=True, slots=True)
class _Source:
    """Samples to ingest."""

    samples: Samples | Sequence[NewSample]
    passages: Sequence[NewSample] = ()
    """All passages, if the file is a document."""

    @property
    def bad(self) -> list[str]:
        """Errors of the first bad rows."""
        found = self.samples.bad if isinstance(self.samples, Samples) else []
        return [str(problem) for problem in found]

    @property
    def separator(self) -> str | None:
        """What a CSV file was split at; `None` for others."""
        return self.samples.separator() if isinstance(self.samples, Samples) else None


def ingest_file(  # noqa: PLR0913 - one parameter for each flag
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            help="JSONL, CSV, Parquet or xlsx file, hub:NAME[:SPLIT], or a .md, .txt or .pdf file."
        ),
    ],
    domain: Annotated[
        str | None,
        typer.Option(
            help=f"Domain of rows that name none (default: {DEFAULT_DOMAIN}).",
            callback=checked_domain,
        ),
    ] = None,
    question_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the questions.")
    ] = "question",
    answer_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the answers.")
    ] = "answer",
    domain_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the domains.")
    ] = "domain",
    id_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the ids.")] = "id",
    source: Annotated[
        str | None,
        typer.Option(help="Name of the document whose passages are replaced (default: its path)."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad rows instead of storing nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change and store nothing.")
    ] = False,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Store solved questions, or cut a document into passages that RAG may show.

    A row has question and answer, and optionally domain, id and metadata. Rows that are stored
    already are skipped, so an interrupted ingest is resumed by running it again. A row with the id
    of a stored row of its domain, but other content or metadata, replaces it. A document that was
    ingested before is replaced: passages that it no longer has are deleted.

    Example: rttc kb ingest solved.jsonl --domain banking --dry-run
    """
    config = command_context(context).config(tenant=tenant)
    columns = ColumnNames(
        question=question_column, answer=answer_column, domain=domain_column, id=id_column
    )
    if is_document(path):
        given = _document(path, source, domain)
    else:
        if source is not None:
            raise ConfigurationError("--source names a document; the rows of a table have ids")
        # A preview goes through the whole file, so that it names all bad rows and not the first.
        samples = read_samples(
            path,
            domain=domain,
            skip_bad=skip_bad or dry_run,
            unique_ids=True,
            columns=columns,
        )
        given = _Source(samples)
    if dry_run:
        told, vanished = _worked(path, config, partial(_preview, given))
        _print_preview(told, given, vanished, as_json=as_json)
        if told.refused and not skip_bad:
            raise typer.Exit(1)
        return
    report, deleted, opposed = _worked(path, config, partial(_ingest, given))
    _print_report(report, given, deleted, opposed, as_json=as_json)


def _document(path: str, source: str | None, domain: str | None) -> _Source:
    """Return the passages of a document, named by its relative path unless a name is given."""
    file = Path(path)
    check_file(file)
    whole, here = file.resolve(), Path.cwd()
    place = whole.relative_to(here) if whole.is_relative_to(here) else whole
    passages = read_document(file, source=source or place.as_posix(), domain=domain or None)
    return _Source(passages, passages)


Show = Callable[[IngestProgress], None]


def _worked(
    path: str,
    config: InstallationConfig,
    work: Callable[[Knowledge, str, Show], Coroutine[Any, Any, T]],
) -> T:
    """Return what some work on the knowledge base returns; its bar is gone then."""
    goes_on = "rows stored so far are kept: run the same command again, and it goes on from there"
    with (
        keeping(goes_on),
        progress(f"ingest {path}") as bar,
        open_knowledge(config) as knowledge,
    ):

        def show(done: IngestProgress) -> None:
            bar.update(bar.task_ids[0], completed=done.rows, total=done.total)

        return asyncio.run(work(knowledge, config.tenant, show))


async def _ingest(
    given: _Source, knowledge: Knowledge, tenant: str, show: Show
) -> tuple[IngestReport, int, dict[str, int]]:
    kept = knowledge.knowledge_base
    report = await ingest(given.samples, kept, knowledge.embedder, tenant=tenant, on_progress=show)
    deleted = await delete_vanished(given.passages, kept, tenant=tenant) if given.passages else 0
    return report, deleted, await _contradictions(given, report, knowledge, tenant)


async def _contradictions(
    given: _Source, report: IngestReport, knowledge: Knowledge, tenant: str
) -> dict[str, int]:
    """Return by domain how many pairs of samples contradict each other, where some do.

    Only small domains are looked at, which takes less than a second; `rttc kb check` takes all.
    """
    if given.passages or not report.stored + report.updated or report.rows > _MOST_CHECKED:
        return {}
    kept = knowledge.knowledge_base
    found: dict[str, int] = {}
    for domain in report.domains:
        counted = await kept.count_samples(SampleFilter(domain=domain), tenant=tenant)
        if sum(counted.values()) <= _MOST_CHECKED:
            compared = await compare_samples(kept, domain=domain, tenant=tenant)
            found[domain] = compared.contradictions
    return {domain: count for domain, count in found.items() if count}


async def _preview(
    given: _Source, knowledge: Knowledge, tenant: str, show: Show
) -> tuple[IngestPreview, int]:
    kept = knowledge.knowledge_base
    told = await preview_ingest(given.samples, kept, tenant=tenant, on_progress=show)
    if not given.passages:
        return told, 0
    return told, len(await vanished_passages(given.passages, kept, tenant=tenant))


def _print_report(
    report: IngestReport,
    given: _Source,
    deleted: int,
    opposed: Mapping[str, int],
    *,
    as_json: bool,
) -> None:
    if as_json:
        more = {"deleted": deleted, "contradictions": opposed, "bad": given.bad}
        print_json({**asdict(report), **more, "separator": given.separator})
        return
    print_prose(
        f"{report.stored} stored, {report.updated} updated, {report.already} were there, "
        f"{report.skipped} bad left out{_vanished(given, deleted, 'deleted')}; "
        f"{report.seconds:.1f} s, {report.embed_seconds:.1f} s of them embedding"
    )
    _print_separator(given)
    for domain, count in opposed.items():
        pairs = "1 pair of samples asks" if count == 1 else f"{count} pairs of samples ask"
        print_prose(
            f"{pairs} nearly the same with different answers: rttc kb check --domain {domain}",
            style="yellow",
        )
    _print_bad(given.bad, report.skipped, "left out")


def _print_preview(told: IngestPreview, given: _Source, vanished: int, *, as_json: bool) -> None:
    if as_json:
        counts = {name: getattr(told, name) for name in ("rows", "new", "updated", "already")}
        updates = [_update(one) for one in told.updates]
        more = {"refused": told.refused, "deleted": vanished, "updates": updates}
        separator = given.separator
        print_json({"dry_run": True, **counts, **more, "bad": given.bad, "separator": separator})
        return
    print_prose(
        f"nothing stored: {told.new} would be new, {told.updated} updated, {told.already} are "
        f"there, {told.refused} refused{_vanished(given, vanished, 'would be deleted')}"
    )
    _print_separator(given)
    for one in told.updates[:_SHOWN_UPDATES]:
        _print_update(one)
    if told.updated > _SHOWN_UPDATES:
        out.print(f"and {told.updated - _SHOWN_UPDATES} more updates; --json has up to 1,000")
    _print_bad(given.bad, told.refused, "refused")


def _print_separator(given: _Source) -> None:
    """Say what a CSV file was split at, where that is not what its name says."""
    separator = given.separator
    if separator is not None and separator != ",":
        shown = {"\t": "tabs", ";": "semicolons", "|": "bars"}.get(separator, repr(separator))
        print_prose(f"columns were told apart by {shown}")


def _vanished(given: _Source, count: int, what: str) -> str:
    return f", {count} that the document no longer has {what}" if given.passages else ""


def _update(one: SampleUpdate) -> dict[str, Any]:
    before, after = one.before, one.after
    return {
        "id": after.external_id,
        "domain": after.domain,
        "before": _texts(before),
        "after": _texts(after),
    }


def _texts(sample: StoredSample | NewSample) -> dict[str, Any]:
    return {
        "question": sample.question,
        "answer": sample.answer,
        "metadata": sample.metadata,
    }


def _print_update(one: SampleUpdate) -> None:
    before, after = one.before, one.after
    out.print(Text(f"{after.external_id or before.id[:_SHOWN_ID]}  {after.domain}"))
    if before.question != after.question:
        out.print(Text(f"  Q {_cut(before.question)} → {_cut(after.question)}"))
    if before.answer != after.answer:
        out.print(Text(f"  A {_cut(before.answer)} → {_cut(after.answer)}"))
    if before.metadata != after.metadata:
        was, will_be = (
            json.dumps(m, ensure_ascii=False) for m in (before.metadata, after.metadata)
        )
        out.print(Text(f"  metadata {_cut(was)} → {_cut(will_be)}"))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def _print_bad(bad: Sequence[str], count: int, what: str) -> None:
    for problem in bad:
        print_prose(f"{what}: {problem}", style="yellow")
    if count > len(bad):
        out.print(f"and {count - len(bad)} more bad rows")
