"""`rttc keys`: who may call a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.screen import AsJson, err, out, print_json, print_table
from rttc_graph.cli.shared_options import split_names, with_default
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.postgres.api_key_store import PostgresApiKeyStore
from rttc_graph.protocols.api_keys import ApiKey, new_key

app = command_group(help="API keys of `rttc serve`; once there is one, every request needs a key.")

T = TypeVar("T")


@app.command("add")
def add_key(
    context: typer.Context,
    scopes: Annotated[
        str,
        typer.Option(
            help="What the key may do, comma-separated: ask, runs:read, kb:read, kb:write."
        ),
    ] = "ask",
    tenant: Annotated[
        str | None,
        typer.Option(help=with_default("Whose samples and cache the key opens", "tenant")),
    ] = None,
    name: Annotated[
        str,
        typer.Option(help="Note on who uses the key, shown by `rttc keys list` (default: none)."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown only this once: the database keeps its digest.

    Example: rttc keys add --tenant acme --scopes ask,kb:read --name 'support desk'
    """
    config = command_context(context).config(tenant=tenant)
    wanted = split_names(scopes)
    key, made = new_key(config.tenant, wanted, name=name)
    stored = _with_keys(context, lambda keys: keys.add(made))
    if as_json:
        print_json({"key": key, **_shown(stored)})
    else:
        out.print(key, soft_wrap=True)
    err.print(
        "It is shown only this once. Servers on this database now ask every request for a key, "
        f"their page too; this one opens {', '.join(wanted)} "
        "(the whole page: --scopes ask,runs:read,kb:read,kb:write)."
    )


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the keys: id, tenant, scopes and name, never the secret.

    Example: rttc keys list
    """
    rows = [_shown(key) for key in _with_keys(context, lambda keys: keys.all())]
    if as_json:
        print_json(rows)
    elif not rows:
        out.print("there are no keys: rttc keys add")
    else:
        columns = ["id", "tenant", "scopes", "name", "created_at", "revoked_at"]
        shown = [{**row, "scopes": ",".join(row["scopes"])} for row in rows]
        print_table(columns, [[row[column] for column in columns] for row in shown])


@app.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `rttc keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key for good; running servers notice within seconds.

    Example: rttc keys revoke 3f9c0a6d5e2b7714
    """
    revoked = _with_keys(context, lambda keys: keys.revoke(key_id))
    if as_json:
        print_json(_shown(revoked))
    else:
        out.print(f"{key_id} revoked")
    if all(key.revoked_at for key in _with_keys(context, lambda keys: keys.all())):
        err.print("No key is left: servers still ask for one. Make one: rttc keys add")


def _with_keys(context: typer.Context, work: Callable[[PostgresApiKeyStore], Awaitable[T]]) -> T:
    async def run(keys: PostgresApiKeyStore) -> T:
        return await work(keys)

    with open_knowledge(command_context(context).config()) as knowledge:
        return asyncio.run(run(PostgresApiKeyStore(knowledge.database)))


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "name": key.name,
        "created_at": key.created_at and key.created_at.isoformat(timespec="seconds"),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(timespec="seconds"),
    }
