"""`rttc models`: the weights on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.command_group import command_group
from rttc_graph.cli.screen import AsJson, ScreenWatcher, keeping, out, print_json, print_table
from rttc_graph.jobs.fetch_models import fetch_models

app = command_group(help="Weights of policy models and embedders.")


@app.command("pull")
def pull_models(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Short names or hub names (default: the configured models)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch models, check them, and convert them once to safetensors.

    A pull that was interrupted goes on where it ended. Each model's licence is told, and what is
    not known of who packed it.

    Example: rttc models pull smollm2-135m-instruct all-minilm-l6-v2
    """
    config = command_context(context).config()
    with keeping("what was downloaded whole is kept: pull again, and it goes on from there"):
        folders = fetch_models(config, ScreenWatcher(), names or ())
    if as_json:
        print_json(folders)
    else:
        for name, folder in folders.items():
            out.print(f"{name}: {folder}")


@app.command("list")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that need no hub, and which of them are here.

    Example: rttc models list
    """
    from rttc_graph.integrations.transformers.weight_files.resolve import catalog, model_folder

    home = command_context(context).config().home
    rows = [
        {
            "name": entry.name,
            "hub_name": entry.hub_name,
            "kind": entry.kind,
            "license": entry.license,
            "packer": entry.packer,
            "here": model_folder(entry, home).is_dir(),
            "folder": str(model_folder(entry, home)),
        }
        for entry in catalog()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["name", "hub name", "kind", "licence", "here"],
            [
                (r["name"], r["hub_name"], r["kind"], r["license"], "yes" if r["here"] else "no")
                for r in rows
            ],
        )
