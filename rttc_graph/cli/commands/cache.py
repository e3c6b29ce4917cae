"""`rttc cache`: what the query-state cache holds, and emptying it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.screen import AsJson, Yes, confirm, out, print_json, print_pairs, size
from rttc_graph.cli.shared_options import checked_tenant
from rttc_graph.installation.knowledge import open_knowledge

app = command_group(help="The query-state cache of retrieved samples and trained adapters.")


@app.command("stats")
def show_stats(context: typer.Context, as_json: AsJson = False) -> None:
    """Show how many query states and adapters are kept, and how large they are.

    `bytes` is what they have, `disk_bytes` what their tables take, free space included.

    Example: rttc cache stats
    """
    with open_knowledge(command_context(context).config()) as knowledge:
        stats = asyncio.run(knowledge.cache.stats())
    if as_json:
        print_json(asdict(stats))
    else:
        sizes = {"bytes": size(stats.bytes), "disk_bytes": size(stats.disk_bytes)}
        print_pairs({**asdict(stats), **sizes})


@app.command("purge")
def purge(
    context: typer.Context,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant whose states and adapters are deleted (default: all).",
            callback=checked_tenant,
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete all query states and adapters; the next queries retrieve and train again.

    Example: rttc cache purge --tenant default --yes
    """
    whose = "all tenants" if tenant is None else f"tenant {tenant!r}"
    confirm(f"Forget all query states and adapters of {whose}?", yes=yes)
    with open_knowledge(command_context(context).config()) as knowledge:
        purged = asyncio.run(knowledge.cache.purge(tenant=tenant))
    if as_json:
        print_json(asdict(purged))
    else:
        out.print(f"{purged.states} query states and {purged.adapters} adapters forgotten")
