"""`rttc stats`: what the ledger says of finished runs, by domain and day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rttc_graph.cli.command_context import session
from rttc_graph.cli.screen import AsJson, out, print_json, print_table
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.knowledge import open_knowledge

if TYPE_CHECKING:
    from rttc_graph.integrations.postgres.ledger_store import RunStatistics

_MOST_DAYS = 36_500
_ARMS = ("direct", "rag", "ttt")
_COLUMNS = ("day", "domain", "runs", "accepted", *_ARMS, "seconds", "samples", "adapters", "saved")


def show_stats(
    context: typer.Context,
    days: Annotated[int | None, typer.Option(help="How far back; all.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose runs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show arm shares, acceptance, cache hits and seconds saved, by domain and day (UTC).

    Example: rttc stats --days 7
    """
    if days is not None and not 1 <= days <= _MOST_DAYS:
        raise ConfigurationError(f"days={days!r} must be from 1 to {_MOST_DAYS}")
    config = session(context).config(tenant=tenant)
    with open_knowledge(config) as knowledge:
        found = asyncio.run(knowledge.ledger_store.statistics(tenant=config.tenant, days=days))
    total = _figures(found)
    if as_json:
        print_json(
            {
                "tenant": config.tenant,
                "total": total,
                "days": [
                    {"day": one.day.isoformat(), "domain": one.domain or None, **_figures([one])}
                    for one in found
                ],
            }
        )
        return
    if not found:
        when = "" if days is None else f" in the last {days} days"
        out.print(f"no runs of tenant {config.tenant!r}{when}: rttc ask 'a question' makes one")
        return
    rows = [(one.day.isoformat(), one.domain or "(none)", _figures([one])) for one in found]
    rows.append(("all", "", total))
    print_table(
        _COLUMNS,
        [(day, domain, *_cells(figures)) for day, domain, figures in rows],
    )
    out.print("seconds: mean of a run; samples, adapters: cache hits; saved: seconds of training")


def _figures(found: Sequence[RunStatistics]) -> dict[str, Any]:
    """Return the figures of some domains and days together."""
    runs = sum(one.runs for one in found)
    arms = {
        "direct": sum(one.direct for one in found),
        "rag": sum(one.rag for one in found),
        "ttt": sum(one.ttt for one in found),
    }
    return {
        "runs": runs,
        "accepted": sum(one.accepted for one in found),
        "arms": arms,
        "seconds": round(sum(one.seconds for one in found), 3),
        "tokens": sum(one.tokens for one in found),
        "cache_look_ups": sum(one.look_ups for one in found),
        "samples_hits": sum(one.samples_hits for one in found),
        "adapter_hits": sum(one.adapter_hits for one in found),
        "seconds_saved": round(sum(one.seconds_saved for one in found), 3),
    }


def _cells(figures: dict[str, Any]) -> tuple[object, ...]:
    runs = figures["runs"]
    return (
        runs,
        f"{figures['accepted'] / runs:.0%}",
        *(f"{figures['arms'][arm] / runs:.0%}" for arm in _ARMS),
        f"{figures['seconds'] / runs:.2f}",
        figures["samples_hits"],
        figures["adapter_hits"],
        f"{figures['seconds_saved']:.1f}",
    )
