"""What every command needs: the settings given by flags, and the way to open what they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from rttc_graph.installation.config import InstallationConfig, load_config


@dataclass(slots=True)
class Session:
    """The flags in front of the command."""

    config_file: Path | None = None
    flags: dict[str, Any] = field(default_factory=dict[str, Any])

    def config(self, **more: Any) -> InstallationConfig:
        """Return the installation's settings, with a command's own flags over the common ones.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        return load_config(self.config_file, **{**self.flags, **more})


def session(context: typer.Context) -> Session:
    """Return the session of this call."""
    found = context.find_object(Session)
    return found if found is not None else Session()
