"""`rttc kb list`, `show`, `search` and `export`: the stored samples, to read and to keep."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.knowledge.filter_options import (
    Contains,
    Domain,
    Ids,
    Metadata,
    Tenant,
    sample_filter,
)
from rttc_graph.cli.screen import AsJson, out, print_json, progress
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.protocols import SearchResult
from rttc_graph.protocols.managed_knowledge_base import (
    MAX_PAGE_SAMPLES,
    SampleFilter,
    SamplePage,
    StoredSample,
)
from rttc_graph.samples.domains import check_domain
from rttc_graph.samples.export import export_file, exported_row, sample_pages

__all__ = ("export_samples", "list_samples", "search_samples", "show_sample")

_SHOWN_CHARACTERS = 200
"""Most characters of a question or answer in a list; `rttc kb show` prints all."""

_MOST_SHOWN = 20
"""Most samples with the same id that are shown."""


def list_samples(  # noqa: PLR0913 - its flags
    context: typer.Context,
    domain: Domain = None,
    ids: Ids = None,
    metadata: Metadata = None,
    contains: Contains = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE_SAMPLES, help="Samples per page.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(
            help="Place to continue from, printed at the end of a page (default: the first page)."
        ),
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """List samples with their ids, by domain; long texts are truncated.

    Example: rttc kb list --domain banking --contains refund
    """
    which = sample_filter(domain=domain, ids=ids, metadata=metadata, contains=contains)
    config = command_context(context).config(tenant=tenant)

    async def listed(knowledge: Knowledge) -> SamplePage:
        await check_domain(knowledge.knowledge_base, which.domain, tenant=config.tenant)
        return await knowledge.knowledge_base.list_samples(
            which, tenant=config.tenant, limit=limit, after=after
        )

    with open_knowledge(config) as knowledge:
        page = asyncio.run(listed(knowledge))
    if as_json:
        print_json(
            {"samples": [shown_sample(sample) for sample in page.samples], "next": page.next}
        )
        return
    for sample in page.samples:
        print_sample(sample)
    if not page.samples:
        out.print("no samples")
    if page.next is not None:
        out.print(Text(f"more: add --after {shlex.quote(page.next)}", style="dim"))


def show_sample(
    context: typer.Context,
    sample_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the sample, as given or as listed.")
    ],
    domain: Domain = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Show a sample whole: texts, metadata and ids. Each domain may have one with a given id.

    Example: rttc kb show helmet-price --domain shop
    """
    config = command_context(context).config(tenant=tenant)
    which = SampleFilter(domain=domain or None, ids=(sample_id,))

    async def found(knowledge: Knowledge) -> list[StoredSample]:
        await check_domain(knowledge.knowledge_base, which.domain, tenant=config.tenant)
        page = await knowledge.knowledge_base.list_samples(
            which, tenant=config.tenant, limit=_MOST_SHOWN
        )
        return page.samples

    with open_knowledge(config) as knowledge:
        samples = asyncio.run(found(knowledge))
    if not samples:
        raise ConfigurationError(
            f"tenant {config.tenant!r} has no sample with id {sample_id!r}; "
            "rttc kb list and rttc kb search name the ids that there are"
        )
    if as_json:
        print_json({"samples": [shown_sample(sample) for sample in samples]})
        return
    for sample in samples:
        print_sample(sample, limit=None)
        if sample.metadata:
            out.print(Text(f"  metadata: {json.dumps(sample.metadata, ensure_ascii=False)}"))
        out.print(Text(f"  own id: {sample.id}"))


def search_samples(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="Question or other text to search for.")],
    domain: Domain = None,
    k: Annotated[
        int, typer.Option("--k", "-k", min=1, max=1000, help="Number of samples to find.")
    ] = 8,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Find the samples that are nearest to a text, with their cosine similarity, at most 1.

    They are those that an answer to it would be made of.

    Example: rttc kb search 'how much is a helmet' --domain shop
    """
    if not text.strip():
        raise ConfigurationError("the text to search for is empty")
    config = command_context(context).config(tenant=tenant)

    async def found(knowledge: Knowledge) -> tuple[SearchResult, Mapping[str, StoredSample]]:
        kept = knowledge.knowledge_base
        await check_domain(kept, domain, tenant=config.tenant)
        (vector,) = await knowledge.embedder.embed([text])
        result = await kept.search(vector, k=k, domain=domain or None, tenant=config.tenant)
        which = SampleFilter(ids=tuple(sample["id"] for sample in result.samples))
        page = await kept.list_samples(which, tenant=config.tenant, limit=MAX_PAGE_SAMPLES)
        return result, {sample.id: sample for sample in page.samples}

    with open_knowledge(config) as knowledge:
        result, stored = asyncio.run(found(knowledge))
    near = [(sample["similarity"], stored[sample["id"]]) for sample in result.samples]
    if as_json:
        print_json({"samples": [{"similarity": s, **shown_sample(one)} for s, one in near]})
        return
    for similarity, sample in near:
        print_sample(sample, similarity=similarity)
    if not near:
        out.print("no samples")


def export_samples(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSONL file to write; - prints the rows.")
    ],
    domain: Domain = None,
    ids: Ids = None,
    metadata: Metadata = None,
    contains: Contains = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Write samples as JSONL that rttc kb ingest reads again, with the same ids and metadata.

    A file appears only when it is whole, in the place of one of that name.

    Example: rttc kb export backup.jsonl --domain banking
    """
    which = sample_filter(domain=domain, ids=ids, metadata=metadata, contains=contains)
    config = command_context(context).config(tenant=tenant)
    is_printed = str(path) == "-"

    async def export(knowledge: Knowledge, show: Any) -> int:
        kept = knowledge.knowledge_base
        await check_domain(kept, which.domain, tenant=config.tenant)
        if not is_printed:
            return await export_file(kept, which, path, tenant=config.tenant, on_progress=show)
        async for samples in sample_pages(kept, which, tenant=config.tenant):
            for sample in samples:
                sys.stdout.write(json.dumps(exported_row(sample), ensure_ascii=False) + "\n")
        return 0

    with progress(f"export {path}") as bar, open_knowledge(config) as knowledge:

        def show(done: int) -> None:
            bar.update(bar.task_ids[0], description=f"{done} rows")

        count = asyncio.run(export(knowledge, show))
    if is_printed:
        return
    if as_json:
        print_json({"file": str(path), "samples": count})
    else:
        out.print(Text(f"{count} samples written to {path}"))


def shown_sample(sample: StoredSample) -> dict[str, Any]:
    """Return a sample as `--json` has it."""
    return {key: value for key, value in asdict(sample).items() if key != "vector"}


def print_sample(
    sample: StoredSample,
    *,
    similarity: float | None = None,
    limit: int | None = _SHOWN_CHARACTERS,
) -> None:
    """Print a sample in three lines: id and domain, question, answer."""
    head = Text(sample.external_id or sample.id, style="bold")
    head.append(f"  {sample.domain}", style="dim")
    if similarity is not None:
        head.append(f"  similarity {similarity:.3f}")
    out.print(head)
    out.print(Text(f"  Q {_cut(sample.question, limit)}"))
    out.print(Text(f"  A {_cut(sample.answer, limit)}"))


def _cut(text: str, limit: int | None) -> str:
    """Return a text on one line, truncated to a number of characters; whole without a limit."""
    if limit is None:
        return text.replace("\n", "\n    ")
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
