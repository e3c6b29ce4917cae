"""`rttc status`: what this installation is made of, and what of it is ready."""

from __future__ import annotations

import asyncio
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.screen import AsJson, print_json, print_pairs, size
from rttc_graph.errors import RttcError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge, open_knowledge
from rttc_graph.integrations.transformers.weight_files.resolve import entry_for, model_folder

_PACKAGES = ("langgraph", "langchain-core", "torch", "transformers", "peft", "psycopg", "pgvector")


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
            status |= asyncio.run(_stored(knowledge, config.tenant))
    except RttcError as exc:
        status["database_error"] = str(exc)
    status["python"] = platform.python_version()
    status["packages"] = {name: _version(name) for name in _PACKAGES}
    if as_json:
        print_json(status)
    else:
        packages = ", ".join(f"{name} {number}" for name, number in status["packages"].items())
        print_pairs({**status, "packages": packages})


async def _stored(knowledge: Knowledge, tenant: str) -> dict[str, Any]:
    domains = await knowledge.knowledge_base.stats(tenant=tenant)
    cache = await knowledge.cache.stats()
    return {
        "samples": sum(domain.samples for domain in domains),
        "domains": len(domains),
        "query_states": cache.states,
        "adapters": cache.adapters,
        "adapter_bytes": size(cache.bytes),
    }


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
