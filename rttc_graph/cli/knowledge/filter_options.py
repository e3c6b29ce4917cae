"""Flags that name samples, and the filter that they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from rttc_graph.cli.shared_options import checked_domain, checked_tenant
from rttc_graph.protocols.managed_knowledge_base import SampleFilter

__all__ = ("Contains", "Domain", "Ids", "Metadata", "Tenant", "filter_of", "metadata_of")

Tenant = Annotated[str | None, typer.Option(help="Whose samples.", callback=checked_tenant)]
Domain = Annotated[
    str | None, typer.Option(help="Samples of this domain.", callback=checked_domain)
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", help="Samples with this id, given or own; may be repeated."),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Samples with this in their metadata, the value as JSON or plain; may be repeated.",
    ),
]
Contains = Annotated[str | None, typer.Option(help="Samples with this text in question or answer.")]


def filter_of(
    *,
    domain: str | None,
    ids: Sequence[str] | None,
    metadata: Sequence[str] | None,
    contains: str | None,
) -> SampleFilter:
    """Return the samples that flags mean.

    Raises:
        typer.BadParameter: A flag cannot be read.
    """
    return SampleFilter(
        domain=domain or None,
        ids=tuple(ids) if ids else None,
        metadata=metadata_of(metadata or ()),
        contains=contains or None,
    )


def metadata_of(pairs: Sequence[str]) -> dict[str, object]:
    """Return metadata written as `KEY=VALUE`; a value that is no JSON is a text.

    Raises:
        typer.BadParameter: A pair has no `=`, or a key is there twice.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"--metadata {pair!r} must be KEY=VALUE.")
        if key in found:
            raise typer.BadParameter(f"--metadata names {key!r} twice.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
