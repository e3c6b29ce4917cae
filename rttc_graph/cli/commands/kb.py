"""`rttc kb`: fill, measure and empty the knowledge base."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.knowledge.filter_options import Tenant
from rttc_graph.cli.knowledge.kb_check import check_samples
from rttc_graph.cli.knowledge.kb_delete import delete_samples
from rttc_graph.cli.knowledge.kb_ingest import ingest_file
from rttc_graph.cli.knowledge.kb_list import (
    export_samples,
    list_samples,
    search_samples,
    show_sample,
)
from rttc_graph.cli.screen import (
    AsJson,
    keeping,
    out,
    print_json,
    print_prose,
    print_table,
    progress,
    size,
)
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.postgres.samples.reembedding import ReembedProgress

app = command_group(help="The knowledge base of solved questions.")

app.command("ingest")(ingest_file)
app.command("list")(list_samples)
app.command("show")(show_sample)
app.command("search")(search_samples)
app.command("export")(export_samples)
app.command("delete")(delete_samples)
app.command("check")(check_samples)


@app.command("stats")
def show_stats(context: typer.Context, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show the size of each domain.

    Example: rttc kb stats --json
    """
    config = command_context(context).config(tenant=tenant)
    with open_knowledge(config) as knowledge:
        domains = asyncio.run(knowledge.knowledge_base.stats(tenant=config.tenant))
    if as_json:
        print_json({"tenant": config.tenant, "domains": [asdict(d) for d in domains]})
    elif not domains:
        print_prose("the knowledge base is empty: rttc kb ingest FILE.jsonl --domain NAME")
    else:
        print_table(
            ["domain", "samples", "revision", "size", "search"],
            [(d.domain, d.samples, d.revision, size(d.bytes), d.index) for d in domains],
        )


@app.command("reembed")
def reembed(context: typer.Context, as_json: AsJson = False) -> None:
    """Embed all samples again with the configured embedder; needed after it was changed.

    Searches go on with the old vectors until the new ones are complete. A re-embedding that was
    interrupted is resumed by running it again. The query-state cache is emptied.

    Example: RTTC_EMBEDDER=/models/other-embedder rttc kb reembed
    """
    config = command_context(context).config()
    goes_on = "vectors so far are kept: run it again, and it goes on; until then the old ones hold"
    with (
        keeping(goes_on),
        progress("embed") as bar,
        open_knowledge(config) as knowledge,
    ):

        def show(done: ReembedProgress) -> None:
            bar.update(bar.task_ids[0], completed=done.done, total=done.total)

        samples = asyncio.run(knowledge.knowledge_base.reembed(on_progress=show))
    if as_json:
        print_json({"samples": samples, "embedder": config.embedder})
    else:
        out.print(f"{samples} samples have vectors of {config.embedder!r}")
