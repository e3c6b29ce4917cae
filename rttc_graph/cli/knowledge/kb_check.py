"""`rttc kb check`: samples that ask nearly the same and answer otherwise."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.knowledge.filter_options import Domain, Tenant
from rttc_graph.cli.knowledge.kb_list import print_sample, shown_sample
from rttc_graph.cli.screen import AsJson, out, print_json
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.protocols.managed_knowledge_base import SampleFilter
from rttc_graph.samples.domains import check_domain
from rttc_graph.samples.likeness import (
    NEARLY_THE_SAME,
    LikenessReport,
    SamplePair,
    compare_samples,
)

__all__ = ("check_samples",)

_SHOWN_PAIRS = 20


def check_samples(
    context: typer.Context,
    domain: Domain = None,
    similarity: Annotated[
        float,
        typer.Option(min=0, max=1, help="Lowest cosine of two questions that are nearly the same."),
    ] = NEARLY_THE_SAME,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Find samples whose questions are nearly the same and whose answers differ.

    Without --domain every domain is checked, each by itself.

    Example: rttc kb check --domain shop
    """
    config = command_context(context).config(tenant=tenant)

    async def checked(knowledge: Knowledge) -> list[LikenessReport]:
        kept = knowledge.knowledge_base
        await check_domain(kept, domain, tenant=config.tenant)
        which = SampleFilter(domain=domain or None)
        names = sorted(await kept.count_samples(which, tenant=config.tenant))
        return [
            await compare_samples(kept, domain=name, tenant=config.tenant, similarity=similarity)
            for name in names
        ]

    with open_knowledge(config) as knowledge:
        reports = asyncio.run(checked(knowledge))
    if as_json:
        print_json({"domains": [_as_json(report) for report in reports]})
        return
    for report in reports:
        out.print(
            Text(
                f"{report.domain}: {report.samples} solved questions; nearly the same are "
                f"{report.contradictions} pairs with different answers, {report.copies} with one"
            )
        )
        for pair in report.pairs[:_SHOWN_PAIRS]:
            out.print()
            print_sample(pair.first, similarity=pair.similarity)
            print_sample(pair.second)
        if report.contradictions > _SHOWN_PAIRS:
            out.print(f"and {report.contradictions - _SHOWN_PAIRS} more; --json has up to 1,000")


def _as_json(report: LikenessReport) -> dict[str, Any]:
    return {
        "domain": report.domain,
        "samples": report.samples,
        "copies": report.copies,
        "contradictions": report.contradictions,
        "pairs": [_pair(pair) for pair in report.pairs],
    }


def _pair(pair: SamplePair) -> dict[str, Any]:
    return {
        "similarity": pair.similarity,
        "first": shown_sample(pair.first),
        "second": shown_sample(pair.second),
    }
