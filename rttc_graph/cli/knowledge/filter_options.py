"""Flags that choose samples, and the filter made from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from rttc_graph.cli.shared_options import checked_domain, checked_tenant, with_default
from rttc_graph.protocols.managed_knowledge_base import SampleFilter

__all__ = ("Contains", "Domain", "Ids", "Metadata", "Tenant", "parse_metadata", "sample_filter")

Tenant = Annotated[
    str | None,
    typer.Option(help=with_default("Whose samples to use", "tenant"), callback=checked_tenant),
]
Domain = Annotated[
    str | None,
    typer.Option(help="Take samples of this domain (default: all).", callback=checked_domain),
]
Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--id", help="Take samples with this id, given, own or as shown; repeatable (default: all)."
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Take samples with this metadata, a value as JSON or text; repeatable (default: all).",
    ),
]
Contains = Annotated[
    str | None,
    typer.Option(help="Take samples with this text in question or answer (default: all)."),
]


def sample_filter(
    *,
    domain: str | None,
    ids: Sequence[str] | None,
    metadata: Sequence[str] | None,
    contains: str | None,
) -> SampleFilter:
    """Return the filter for the samples that the flags choose.

    Raises:
        typer.BadParameter: A flag cannot be read.
    """
    return SampleFilter(
        domain=domain or None,
        ids=tuple(ids) if ids else None,
        metadata=parse_metadata(metadata or ()),
        contains=contains or None,
    )


def parse_metadata(pairs: Sequence[str]) -> dict[str, object]:
    """Return metadata from `KEY=VALUE` pairs; a value that is not JSON is a text.

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
