"""`rttc stats`: what the ledger says of finished runs, by domain, day and arm."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rttc_graph.arms import ARMS
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import AsJson, print_json, print_prose, print_table
from rttc_graph.cli.shared_options import with_default
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import open_knowledge

if TYPE_CHECKING:
    from rttc_graph.protocols.run_history import RunStatistics

_MOST_DAYS = 36_500
_COLUMNS = (
    "day",
    "domain",
    "arm",
    "runs",
    "share",
    "accepted",
    "seconds",
    "hits",
    "saved",
)


def show_stats(
    context: typer.Context,
    days: Annotated[int | None, typer.Option(help="Days to look back (default: all).")] = None,
    tenant: Annotated[
        str | None, typer.Option(help=with_default("Whose runs to show", "tenant"))
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            min=1, help="Show this many runs, the newest first (default: figures of all runs)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show runs, acceptance, cache hits and seconds saved, by domain, day (UTC) and arm.

    Example: rttc stats --days 7
    """
    if last is not None:
        if days is not None:
            raise ConfigurationError("--days and --last exclude each other: give one of them")
        _show_last(command_context(context).config(tenant=tenant), last, as_json=as_json)
        return
    if days is not None and not 1 <= days <= _MOST_DAYS:
        raise ConfigurationError(f"--days {days} must be from 1 to {_MOST_DAYS}")
    config = command_context(context).config(tenant=tenant)
    with open_knowledge(config) as knowledge:
        statistics = asyncio.run(knowledge.ledger_store.statistics(tenant=config.tenant, days=days))
    total, by_arm = _figures(statistics), _by_arm(statistics)
    if as_json:
        print_json(
            {
                "tenant": config.tenant,
                "total": total,
                "arms": [{"arm": arm, **figures} for arm, figures in by_arm.items()],
                "rows": [
                    {
                        "day": one.day.isoformat(),
                        "domain": one.domain or None,
                        "arm": one.arm,
                        **_figures([one]),
                    }
                    for one in statistics
                ],
            }
        )
        return
    if not statistics:
        when = "" if days is None else f" in the last {days} days"
        print_prose(f"no runs of tenant {config.tenant!r}{when}: rttc ask 'a question' makes one")
        return
    runs = Counter[tuple[date, str]]()
    for one in statistics:
        runs[one.day, one.domain] += one.runs
    rows = [
        (
            one.day.isoformat(),
            one.domain or "(none)",
            one.arm,
            *_cells(_figures([one]), of=runs[one.day, one.domain]),
        )
        for one in sorted(statistics, key=_by_cost)
    ]
    rows += [("all", "", arm, *_cells(one, of=total["runs"])) for arm, one in by_arm.items()]
    rows.append(("all", "", "all", *_cells(total, of=total["runs"])))
    print_table(_COLUMNS, rows)
    print_prose(
        "share: of the runs of the domain and day; seconds: mean of a run; hits: samples/adapters "
        "from the cache; saved: seconds of training"
    )


def _show_last(config: InstallationConfig, count: int, *, as_json: bool) -> None:
    """Show single runs, as they were stored."""
    with open_knowledge(config) as knowledge:
        runs = asyncio.run(knowledge.ledger_store.recent(tenant=config.tenant, count=count))
    if as_json:
        print_json({"tenant": config.tenant, "runs": [asdict(run) for run in runs]})
        return
    rows = [
        (
            run.run_id,
            run.domain or "(none)",
            run.arm,
            "-" if run.reward is None else f"{run.reward:.3f}",
            "yes" if run.accepted else "no",
            f"{run.seconds:.2f}",
            run.query,
        )
        for run in runs
    ]
    print_table(("run", "domain", "arm", "reward", "accepted", "seconds", "question"), rows)


def _by_cost(one: RunStatistics) -> tuple[int, str, int, str]:
    """Return the place of a row: by day, newest first, domain, and the arm's place in the table."""
    return (-one.day.toordinal(), one.domain, *_place(one.arm))


def _place(arm: str) -> tuple[int, str]:
    """Return the place of an arm; those of former tables come last, by name."""
    names = list(ARMS)
    return (names.index(arm) if arm in ARMS else len(names), arm)


def _by_arm(found: Sequence[RunStatistics]) -> dict[str, dict[str, Any]]:
    """Return the figures of each arm that answered."""
    arms = sorted({one.arm for one in found}, key=_place)
    return {arm: _figures([one for one in found if one.arm == arm]) for arm in arms}


def _figures(found: Sequence[RunStatistics]) -> dict[str, Any]:
    """Return the figures of some domains, days and arms together."""
    return {
        "runs": sum(one.runs for one in found),
        "accepted": sum(one.accepted for one in found),
        "seconds": round(sum(one.seconds for one in found), 3),
        "tokens": sum(one.tokens for one in found),
        "cache_look_ups": sum(one.look_ups for one in found),
        "samples_hits": sum(one.samples_hits for one in found),
        "adapter_hits": sum(one.adapter_hits for one in found),
        "seconds_saved": round(sum(one.seconds_saved for one in found), 3),
    }


def _cells(figures: dict[str, Any], *, of: int) -> tuple[object, ...]:
    runs = figures["runs"]
    return (
        runs,
        f"{runs / of:.0%}",
        f"{figures['accepted'] / runs:.0%}",
        f"{figures['seconds'] / runs:.2f}",
        f"{figures['samples_hits']}/{figures['adapter_hits']}",
        f"{figures['seconds_saved']:.1f}",
    )
