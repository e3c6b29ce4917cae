"""The reward model that comes with this package: weights, specification and model card."""

from __future__ import annotations

from pathlib import Path

SHIPPED = "minilm-judge"
"""Its name in the settings."""


def shipped_folder() -> Path:
    """Return the folder of the reward model that ships."""
    return Path(__file__).parent
