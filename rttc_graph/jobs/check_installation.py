"""An installation looked over: what is installed, reachable, calibrated and on disk."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.installation.calibration_in_force import told_calibrations
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import open_knowledge
from rttc_graph.installation.needed_models import needed_models
from rttc_graph.integrations.langchain.hosted_models import (
    HostedName,
    Role,
    hosted_name,
    missing_key,
    resolved,
    served_models,
)
from rttc_graph.integrations.transformers.weight_files.resolve import is_here

__all__ = ("Check", "check_installation")

Outcome = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    outcome: Outcome
    """`ok`; `warn` for what works but is worth knowing; `fail` for what does not work."""
    said: str
    way_out: str = ""
    """Advice; empty where all is well."""


_NEEDED = {
    "cli": ("pydantic_settings", "rich", "typer"),
    "postgres": ("psycopg", "pgvector", "numpy"),
    "local": ("torch", "transformers", "peft", "sentence_transformers", "safetensors"),
}
"""Extras that an installation stands on, with what they install."""

_OPTIONAL = {
    "data": ("datasets", "openpyxl", "pyarrow"),
    "documents": ("langchain_text_splitters", "markdown_it", "pypdf"),
    "eval": ("matplotlib", "scipy", "sklearn"),
    "serve": ("fastapi", "langserve", "uvicorn", "sse_starlette"),
    "hosted": ("langchain", "langchain_openai"),
}

_GIB = 1024**3

_LOW_DISK = 2 * _GIB
"""Free bytes below which a model and its conversion may not fit."""


def check_installation(config: InstallationConfig, *, settings_file: Path | None) -> list[Check]:
    """Return what was found, in the order in which things need each other; nothing is raised.

    Nothing is downloaded and no model is loaded. An embedded server is started, as any other
    command starts it, and a server behind an address is asked for its models.

    Args:
        config: What the installation is to be.
        settings_file: File that it was read from; `None` where there is none.
    """
    file = "no rttc.toml: defaults hold" if settings_file is None else str(settings_file)
    return [
        Check(name="version", outcome="ok", said=_versions()),
        Check(name="settings", outcome="ok", said=file),
        *_packages(),
        *_disk(config),
        *_local_models(config),
        *_device(config),
        *_hosted_models(config),
        *_database(config),
    ]


def _versions() -> str:
    try:
        ours = version("rttc-graph")
    except PackageNotFoundError:
        ours = "from a source tree"
    return f"rttc-graph {ours}, Python {platform.python_version()}, {platform.system()}"


def _packages() -> Iterator[Check]:
    for extra, modules in (_NEEDED | _OPTIONAL).items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if not missing:
            yield Check(name=f"extra {extra}", outcome="ok", said="installed")
            continue
        yield Check(
            name=f"extra {extra}",
            outcome="fail" if extra in _NEEDED else "warn",
            said=f"{', '.join(missing)} not installed",
            way_out=f"pip install 'rttc-graph[{extra}]'",
        )


def _disk(config: InstallationConfig) -> Iterator[Check]:
    home = config.home
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Check(
            name="home",
            outcome="fail",
            said=f"{place} cannot be written to",
            way_out="name another folder by --home or RTTC_HOME",
        )
        return
    free, used = shutil.disk_usage(place).free, _bytes_below(home)
    said = f"{home}: {used / _GIB:.1f} GiB used, {free / _GIB:.1f} GiB free on the disk"
    if free < _LOW_DISK:
        yield Check(
            name="home",
            outcome="warn",
            said=said,
            way_out="free some space, or name another folder by RTTC_HOME: a model takes 1 to 3 "
            "GiB while it is made ready",
        )
    else:
        yield Check(name="home", outcome="ok", said=said)


def _device(config: InstallationConfig) -> Iterator[Check]:
    """Say what the local model may take of its device."""
    try:
        is_served = hosted_name(config.model, "model") is not None
    except ConfigurationError:  # the check of served models tells it
        return
    if is_served or importlib.util.find_spec("torch") is None:
        return
    # torch takes seconds to import, and is an extra
    from rttc_graph.integrations.lora.together.training_plans import most_together
    from rttc_graph.integrations.transformers.free_memory import device_sizes, free_bytes
    from rttc_graph.integrations.transformers.precision import choose_device

    try:
        device = choose_device(config.device)
        free = free_bytes(device)
    except (RttcError, RuntimeError, AssertionError) as exc:  # torch's, where there is no such GPU
        yield Check(
            name="device",
            outcome="fail",
            said=f"{config.device}: {exc}",
            way_out="set device to auto or cpu",
        )
        return
    sizes = device_sizes(device.type, free=free, position=0)
    rows = config.max_batch or sizes.rows
    adapters = config.max_resident_bytes or sizes.adapter_bytes
    trainings = config.max_training_bytes or sizes.training_bytes
    together = config.trainings_together or most_together(device)
    there = f"{free / _GIB:.1f} GiB free" if math.isfinite(free) else "free memory not known"
    yield Check(
        name="device",
        outcome="ok",
        said=f"{device.type}, {there}: up to {rows} rows at once, {adapters / _GIB:.2g} GiB of "
        f"adapters, {trainings / _GIB:.2g} GiB of trainings, {together} in one pass",
    )


def _bytes_below(folder: Path) -> int:
    """Return how many bytes lie below a folder, as far as it can be read."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _local_models(config: InstallationConfig) -> Iterator[Check]:
    try:
        names = needed_models(config)
    except RttcError as exc:
        yield Check(name="reward", outcome="fail", said=str(exc), way_out="see rttc reward train")
        return
    for name in names:
        if is_here(name, cache_dir=config.home):
            yield Check(name=f"model {name}", outcome="ok", said="on this machine")
        else:
            yield Check(
                name=f"model {name}",
                outcome="warn",
                said="not on this machine yet; the first use fetches it",
                way_out=f"rttc models pull {name}",
            )


def _hosted_models(config: InstallationConfig) -> Iterator[Check]:
    settings: tuple[tuple[Role, str], ...] = (
        ("model", config.model),
        ("embedder", config.embedder),
        ("reward", config.reward),
    )
    for role, text in settings:
        try:
            name = hosted_name(text, role)
            for server in name.servers() if name is not None else ():
                yield _hosted(server)
        except RttcError as exc:
            yield Check(
                name=role, outcome="fail", said=str(exc), way_out="see docs/howto/other-models.md"
            )


def _hosted(name: HostedName) -> Check:
    label = f"{name.role} {name.text}"
    if (variable := missing_key(name)) is not None:
        return Check(
            name=label,
            outcome="fail",
            said=f"{variable} is not set",
            way_out=f"export {variable}=…",
        )
    if name.url is None:
        return Check(name=label, outcome="ok", said="served by its provider; not asked")
    models = served_models(name)
    whole = resolved(name) if not name.model else name
    if whole.model not in models:
        return Check(
            name=label,
            outcome="warn",
            said=f"the server lists no model {whole.model!r}, but {', '.join(models[:8])}",
            way_out=f"write {name.url}#MODEL with one of these",
        )
    return Check(name=label, outcome="ok", said=f"reachable, serves {whole.model}")


def _database(config: InstallationConfig) -> Iterator[Check]:
    kind = "given by DSN" if config.database_url else "embedded"
    try:
        with open_knowledge(config) as knowledge:

            async def look() -> tuple[dict[str, int], list[str] | None]:
                domains = await knowledge.knowledge_base.stats(tenant=config.tenant)
                calibrations = await told_calibrations(config, knowledge)
                held = next((one for one in calibrations if one["in_force"]), None)
                names = None if held is None else [d["domain"] for d in held["domains"]]
                return {domain.domain: domain.samples for domain in domains}, names

            samples, calibrated = asyncio.run(look())
    except RttcError as exc:
        yield Check(
            name="database",
            outcome="fail",
            said=f"{kind}: {exc}",
            way_out="see rttc db --help and docs/howto/your-own-postgres.md",
        )
        return
    yield Check(name="database", outcome="ok", said=f"{kind}, reachable")
    yield from _samples(config, samples)
    yield _calibration(config, calibrated)


def _samples(config: InstallationConfig, samples: dict[str, int]) -> Iterator[Check]:
    total = sum(samples.values())
    if not total:
        yield Check(
            name="samples",
            outcome="warn",
            said=f"tenant {config.tenant!r} has none: only the plain model can answer",
            way_out="rttc kb ingest FILE --domain NAME",
        )
    else:
        said = f"{total} in {len(samples)} domain{'s' if len(samples) > 1 else ''}"
        yield Check(name="samples", outcome="ok", said=said)


def _calibration(config: InstallationConfig, domains: list[str] | None) -> Check:
    if domains is None:
        return Check(
            name="calibration",
            outcome="warn",
            said=f"none for {config.reward}: rewards are scores, no probabilities",
            way_out="rttc calibrate QUESTIONS.jsonl --save",
        )
    named = ", ".join(domain or "all others" for domain in domains)
    return Check(name="calibration", outcome="ok", said=f"of {config.reward} for {named}")
