"""`rttc kb delete`: samples by domain, id, metadata or text, after a question."""

from __future__ import annotations

import asyncio
from typing import Annotated

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
from rttc_graph.cli.screen import AsJson, Yes, confirm, out, print_json
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase, SampleFilter
from rttc_graph.samples.domains import check_domain

__all__ = ("delete_samples",)


def delete_samples(  # noqa: PLR0913 - its flags
    context: typer.Context,
    domain: Domain = None,
    ids: Ids = None,
    metadata: Metadata = None,
    contains: Contains = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the samples and delete nothing.")
    ] = False,
    tenant: Tenant = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the samples that match all flags; cached states of them are no longer used.

    Example: rttc kb delete --domain banking --id old-fee --dry-run
    """
    which = sample_filter(domain=domain, ids=ids, metadata=metadata, contains=contains)
    which.check_for_delete()
    config = command_context(context).config(tenant=tenant)
    with open_knowledge(config) as knowledge:
        kept = knowledge.knowledge_base
        counted = asyncio.run(_counted(kept, which, config.tenant))
        total = sum(counted.values())
        deleted = 0
        if total and not dry_run:
            confirm(f"Delete {_described(counted)} of tenant {config.tenant!r}?", yes=yes)
            deleted = asyncio.run(kept.delete_samples(which, tenant=config.tenant))
    if as_json:
        shown = {"domain": domain, "deleted": deleted, "matching": counted, "dry_run": dry_run}
        print_json(shown)
    elif dry_run:
        out.print(Text(f"would delete {_described(counted)}"))
    elif domain is not None and which == SampleFilter(domain=domain):
        out.print(Text(f"{deleted} samples of {domain!r} deleted"))
    else:
        out.print(Text(f"{deleted} samples deleted"))


async def _counted(
    knowledge_base: ManagedKnowledgeBase, which: SampleFilter, tenant: str
) -> dict[str, int]:
    await check_domain(knowledge_base, which.domain, tenant=tenant, may_be_all=False)
    return await knowledge_base.count_samples(which, tenant=tenant)


def _described(counted: dict[str, int]) -> str:
    if not counted:
        return "0 samples"
    parts = [
        f"{count:,} {'sample' if count == 1 else 'samples'} of {name!r}"
        for name, count in sorted(counted.items())
    ]
    return ", ".join(parts)
