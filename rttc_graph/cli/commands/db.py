"""`rttc db`: the embedded Postgres, and the migrations of any Postgres."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.screen import AsJson, Yes, confirm, out, print_json, print_pairs, progress
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import embedded_server, open_knowledge
from rttc_graph.integrations.postgres.connection_setup import without_secrets
from rttc_graph.integrations.postgres.migrate import migrate

if TYPE_CHECKING:
    from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
    from rttc_graph.integrations.postgres.samples.sample_index import IndexProgress

app = command_group(help="The database and its embedded server.")


@app.command("up")
def start(context: typer.Context, as_json: AsJson = False) -> None:
    """Start the embedded server, migrate its database, and leave it running.

    Other commands start and stop it themselves; leaving it up saves them the start.

    Example: rttc db up
    """
    server = _embedded(command_context(context).config())
    with progress("starting Postgres"):
        server.start(keep=True)
        applied = migrate(server.dsn, private=True)
    if as_json:
        print_json({"dsn": server.dsn, "applied": applied})
    else:
        out.print(f"running: {server.dsn}", soft_wrap=True)


@app.command("down")
def stop(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Stop it even while other processes use it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the embedded server; it stays up while another process uses it.

    Example: rttc db down
    """
    down = _embedded(command_context(context).config()).stop(force=force)
    if as_json:
        print_json({"down": down})
    elif down:
        out.print("stopped")
    else:
        out.print("in use by another process, the last one to leave stops it (or: --force)")


@app.command("status")
def show_status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show whether the embedded server runs, who uses it, and where its data are.

    Example: rttc db status --json
    """
    config = command_context(context).config()
    if config.database_url is not None:
        status: dict[str, object] = {
            "server": "given by DSN",
            "dsn": without_secrets(config.database_url),
        }
    else:
        status = {"server": "embedded", **asdict(_embedded(config).status())}
        status["data"] = str(status["data"])
    if as_json:
        print_json(status)
    else:
        print_pairs(status)


@app.command("migrate")
def apply_migrations(context: typer.Context, as_json: AsJson = False) -> None:
    """Apply the migrations that the database lacks.

    Example: RTTC_DATABASE_URL=postgresql://rttc@db/rttc rttc db migrate
    """
    config = command_context(context).config()
    if config.database_url is not None:
        applied = migrate(config.database_url)
    else:
        server = _embedded(config).start()
        applied = migrate(server.dsn, private=True)
        server.release()
    if as_json:
        print_json({"applied": applied})
    else:
        out.print("applied: " + (", ".join(applied) or "nothing, it is up to date"))


@app.command("index")
def build_indexes(context: typer.Context, as_json: AsJson = False) -> None:
    """Build the indexes that large domains lack, and wait for them.

    An ingest starts this by itself in the background; searches are exact, and slower, until it is
    done. Readers and writers go on meanwhile.

    Example: rttc db index
    """
    with (
        progress("index") as bar,
        open_knowledge(command_context(context).config()) as knowledge,
    ):

        def show(found: IndexProgress) -> None:
            text = f"index {found.domain}: {found.phase}"
            bar.update(bar.task_ids[0], description=text, completed=found.done, total=found.total)

        domains = asyncio.run(knowledge.knowledge_base.build_indexes(on_progress=show))
    if as_json:
        print_json({"indexed": domains})
    else:
        out.print("indexed: " + (", ".join(domains) or "nothing, no large domain lacks an index"))


@app.command("prune")
def prune_runs(
    context: typer.Context,
    days: Annotated[
        float,
        typer.Option(
            "--older-than-days",
            help="Age in days from which on runs are deleted.",
            show_default=False,
        ),
    ],
    tenant: Annotated[
        str | None, typer.Option(help="Tenant whose runs are deleted (default: all).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the runs and delete nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete finished runs, ledgers and ratings included, that are older than a number of days.

    Example: rttc db prune --older-than-days 90 --dry-run
    """
    whose = "all tenants" if tenant is None else f"tenant {tenant!r}"
    if not dry_run:
        confirm(f"Delete the runs of {whose} that are older than {days:g} days?", yes=yes)
    with open_knowledge(command_context(context).config()) as knowledge:
        pruning = knowledge.ledger_store.prune(older_than_days=days, tenant=tenant, dry_run=dry_run)
        runs = asyncio.run(pruning)
    if as_json:
        print_json({"runs": runs, "deleted": not dry_run})
    else:
        out.print(f"{runs} runs {'would be deleted' if dry_run else 'deleted'}")


def _embedded(config: InstallationConfig) -> EmbeddedPostgres:
    if config.database_url is not None:
        raise ConfigurationError(
            f"database_url={without_secrets(config.database_url)!r} is set, so there is no "
            "embedded server: unset RTTC_DATABASE_URL"
        )
    return embedded_server(config)
