"""What every command needs: the settings given by flags, and the way to open what they name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from rttc_graph.installation.config import InstallationConfig, load_config


@dataclass(slots=True)
class CommandContext:
    """The flags in front of the command."""

    config_file: Path | None = None
    flags: dict[str, Any] = field(default_factory=dict[str, Any])
    spelt: dict[str, str] = field(default_factory=dict[str, str])
    """Flags as they are typed, by the settings that they set."""

    def config(self, **more: Any) -> InstallationConfig:
        """Return the installation's settings, with a command's own flags over the common ones.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        flags = {**self.flags, **more}
        spelt = {name: self.spelt.get(name, f"--{name.replace('_', '-')}") for name in flags}
        return load_config(self.config_file, spelt=spelt, **flags)


def command_context(context: typer.Context) -> CommandContext:
    """Return the flags that stood in front of the command."""
    given = context.find_object(CommandContext) or CommandContext()
    options = {one.name: max(one.opts, key=len) for one in context.command.params if one.name}
    return replace(given, spelt=options)
