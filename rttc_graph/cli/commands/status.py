"""`rttc status`: what this installation is made of, and what of it is ready."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from rttc_graph.cli.calibration_table import named
from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import AsJson, print_json, print_pairs, size
from rttc_graph.errors import RttcError
from rttc_graph.installation.calibration_in_force import told_calibrations
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.integrations.transformers.weight_files.resolve import entry_for, model_folder
from rttc_graph.support.json_lines import last_told

_PACKAGES = ("langgraph", "langchain-core", "torch", "transformers", "peft", "psycopg", "pgvector")

_STORED_ITEM = 4
"""Bytes of a number of a stored adapter."""


def show_status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show models, database, knowledge base, cache and versions.

    Example: rttc status --json
    """
    config = command_context(context).config()
    status: dict[str, Any] = {
        "version": version("rttc-graph"),
        "home": str(config.home),
        "policy_model": _model(config, config.model),
        "embedder": _model(config, config.embedder),
        "reward_model": config.reward,
        "policy": config.policy,
        "tau_r": config.tau_r,
        "database": "given by DSN" if config.database_url else "embedded",
    }
    try:
        with open_knowledge(config) as knowledge:
            status |= asyncio.run(_stored(config, knowledge))
    except RttcError as exc:
        status["database_error"] = str(exc)
    if (engine := _engine(config, status)) is not None:
        status["engine"] = engine
    status["python"] = platform.python_version()
    status["packages"] = {name: _version(name) for name in _PACKAGES}
    if as_json:
        print_json(status)
    else:
        packages = ", ".join(f"{name} {number}" for name, number in status["packages"].items())
        shown = {**status, "packages": packages}
        if "calibration" in status:
            shown["calibration"] = _calibration(status["calibration"])
        if "engine" in status:
            shown["engine"] = _engine_line(status["engine"])
        if "standing_adapters" in status:
            shown["standing_adapters"] = _standing(status["standing_adapters"])
        if "adapter_bytes" in status:
            shown["adapter_bytes"] = size(status["adapter_bytes"])
        print_pairs(shown)


async def _stored(config: InstallationConfig, knowledge: Knowledge) -> dict[str, Any]:
    domains = await knowledge.knowledge_base.stats(tenant=config.tenant)
    calibrations = await told_calibrations(config, knowledge)
    cache = await knowledge.cache.stats()
    standing = await knowledge.standing.all_of(tenant=config.tenant)
    return {
        "standing_adapters": [
            {
                "domain": one.domain,
                "base": one.card.get("base"),
                "adapter": one.key,
                "made_at": one.card.get("made_at"),
                "trial": one.card.get("trial"),
            }
            for one in standing
        ],
        "calibration": next((one for one in calibrations if one["in_force"]), None),
        "samples": sum(domain.samples for domain in domains),
        "domains": len(domains),
        "query_states": cache.states,
        "adapters": cache.adapters,
        "adapter_bytes": cache.bytes,
    }


def _engine(config: InstallationConfig, status: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what fitted the local model's device when it was last loaded here; `None` if never.

    How many adapters are resident at most is told by the mean size of those that are stored.
    """
    found = last_told(config.engine_sizes_file)
    if found is None or found.pop("model", None) != config.model:
        return None
    item, room = found.pop("item_bytes", None), found.get("adapter_bytes")
    stored, count = status.get("adapter_bytes"), status.get("adapters")
    if stored and count and item and room:
        found["resident_adapters"] = int(room / (stored / count / _STORED_ITEM * item))
    return found


def _engine_line(engine: Mapping[str, Any]) -> str:
    """Return in one line what fits the local model's device."""
    adapters = size(engine.get("adapter_bytes", 0))
    if (most := engine.get("resident_adapters")) is not None:
        adapters += f", {most} like those stored"
    line = (
        f"when last loaded, on {engine.get('device')}: up to {engine.get('rows')} rows at once, "
        f"{engine.get('positions')} positions, resident adapters of {adapters}"
    )
    trainings = engine.get("training_bytes")  # an earlier release did not keep it
    return line if trainings is None else f"{line}, trainings of {size(trainings)}"


def _calibration(found: Mapping[str, Any] | None) -> str:
    """Return the calibration in force in one line."""
    if found is None:
        return "none: rewards are raw scores"
    domains = [domain["domain"] for domain in found["domains"]]
    return f"{named(domains)}; saved {found['saved_at']}, tau_r_of {found['tau_r_of']}"


def _standing(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the adapters that stand for domains in one line."""
    told = [
        f"{one['domain']} ({one['base']}, {one['trial']['before']:.0%} right before, "
        f"{one['trial']['after']:.0%} after)"
        for one in found
        if one["trial"]
    ]
    return "; ".join(told) or "none: the plain model answers everywhere (rttc improve trains one)"


def _model(config: InstallationConfig, name: str) -> str:
    entry = entry_for(name)
    if entry is None:
        return name
    here = model_folder(entry, config.home).is_dir()
    return f"{name} ({'here' if here else 'not here yet: rttc models pull ' + name})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
