"""What every command needs: the settings given by flags, and the way to open what they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from rttc_graph.installation.config import InstallationConfig, load_config


@dataclass(slots=True)
class CommandContext:
    """The flags in front of the command."""

    config_file: Path | None = None
    flags: dict[str, Any] = field(default_factory=dict[str, Any])

    def config(self, **more: Any) -> InstallationConfig:
        """Return the installation's settings, with a command's own flags over the common ones.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        return load_config(self.config_file, **{**self.flags, **more})


def command_context(context: typer.Context) -> CommandContext:
    """Return the flags that stood in front of the command."""
    given = context.find_object(CommandContext)
    return given if given is not None else CommandContext()
