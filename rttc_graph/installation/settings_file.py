"""A settings file in which every setting stands, commented out, with its default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from rttc_graph.installation.config import SETTING_TABLES, InstallationConfig
from rttc_graph.settings import RttcSettings

__all__ = ("settings_file",)

_WIDTH = 98

_HEAD = """\
# Settings of rttc, in the folder where it is called. A flag holds before the environment
# (RTTC_TAU_R for tau_r), which holds before this file. What is commented out has its default.
# Keys do not belong here: OPENAI_API_KEY, RTTC_MODEL_API_KEY and so on come by the environment.
"""

_DOMAINS = """\
# What holds for questions of one domain; see docs/howto/domains.md.
#[domains.banking]
#system_prompt = "You answer for the service desk of a bank, in one sentence."
#rag_template = "Solved before:\\n{samples}\\n\\nQuestion: {question}"
#tau_r = 0.7
#arms = "nearest,rag"
"""

_SECRET = {"reward_api_key"}
"""Settings that are no matter of a file."""

_FIRST = ("home", "database_url", "model", "embedder", "reward", "tau_r", "below", "policy")
"""Settings that people change most, in the order in which they are asked for."""


def settings_file() -> str:
    """Return the text of the file."""
    named = [name for name in InstallationConfig.model_fields if name not in _SECRET | {"domains"}]
    plain = [name for name in named if name not in SETTING_TABLES]
    ours = [name for name in plain if name not in RttcSettings.model_fields]
    runs = [name for name in plain if name in RttcSettings.model_fields]
    first = [name for name in _FIRST if name in plain]
    parts = [
        _HEAD,
        *_section("Where things are, and what answers and judges", first),
        *_section("Installation", [name for name in ours if name not in first]),
        *_section("Defaults of a run", [name for name in runs if name not in first]),
    ]
    parts += ["\n".join([*_described(name), *_table(name)]) for name in SETTING_TABLES]
    return "\n\n".join(part.rstrip("\n") for part in [*parts, _DOMAINS]) + "\n"


def _section(title: str, names: list[str]) -> Iterator[str]:
    yield f"# ---- {title} ----"
    for name in names:
        yield "\n".join([*_described(name), _setting(name, _default(name))])


def _described(name: str) -> list[str]:
    words = InstallationConfig.model_fields[name].description or ""
    return textwrap.wrap(words, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _table(name: str) -> Iterator[str]:
    default = _default(name)
    yield f"#[{name}]"
    for one in fields(default):
        yield _setting(one.name, getattr(default, one.name))


def _default(name: str) -> Any:
    return InstallationConfig.model_fields[name].get_default(call_default_factory=True)


def _setting(name: str, value: Any) -> str:
    if value is None:
        return f"# {name} has no default"
    return f"#{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, tuple):
        return json.dumps(list(cast("tuple[str, ...]", value)))
    return json.dumps(value, ensure_ascii=False)
