"""The calibrations that are kept as a table, and the way back, for `rttc calibrate`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from rttc_graph.cli.plan_table import in_words
from rttc_graph.cli.screen import confirm, out, print_json, print_table
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.calibration_in_force import told_calibrations, undo_calibration
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.integrations.rewards.calibrated.stored_plan import read_plan


def list_calibrations(config: InstallationConfig, *, as_json: bool) -> None:
    """Show the tenant's calibrations, those of the configured reward model marked."""
    with open_knowledge(config) as knowledge:
        kept = asyncio.run(told_calibrations(config, knowledge))
    if as_json:
        print_json(kept)
    elif not kept:
        out.print("no calibration: rewards are raw scores (rttc calibrate FILE --save makes one)")
    else:
        columns = ["", "reward model", "saved", "domain", "answers", "map", "arms", "τr"]
        columns += ["plan", "earlier"]
        print_table(columns, [row for one in kept for row in _rows(one)])
        out.print(
            "→: the reward model of this installation; earlier: steps that --undo can go back"
        )


def undo(config: InstallationConfig, *, yes: bool, as_json: bool) -> None:
    """Ask, and bring back what the last calibration took the place of."""
    confirm("Undo the last calibration of the reward model?", yes=yes)
    with open_knowledge(config) as knowledge:
        done = asyncio.run(undo_calibration(config, knowledge))
    if as_json:
        print_json(done)
        return
    now = named(done["domains"])
    said = f"maps hold again for {now}" if done["domains"] else "rewards are raw scores again"
    out.print(Text(f"undone for {named(done['undone'])}: {said}"))
    out.print(Text(f'a τr that is pinned needs tau_r_of = "{done["tau_r_of"]}" now'))


def named(domains: Sequence[str]) -> str:
    """Return domains as people are told of them."""
    return ", ".join(domain or "questions without a domain" for domain in domains) or "no domain"


def _rows(one: Mapping[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            "→" if one["in_force"] else "",
            f"{one['reward_model']} ({one['fingerprint'][:8]})",
            one["saved_at"],
            _domain(found),
            found["answers"],
            found["method"] if found["own"] else f"{found['method']}, of all answers",
            ", ".join(found["arms"]),
            "" if found["tau_r"] is None else f"{found['tau_r']:g}",
            _plan(found["plan"]),
            one["earlier"],
        )
        for found in one["domains"]
    ]


def _plan(kept: object) -> str:
    """Return a plan in words; a later release may have kept one that cannot be read here."""
    try:
        plan = read_plan(kept)
    except ConfigurationError:
        return "cannot be read"
    return "" if plan is None else in_words(plan)


def _domain(found: Mapping[str, Any]) -> str:
    if found["for_others"]:
        return "(all others)"
    return found["domain"] or "(none named)"
