"""Imports what an extra installs, with an error that says which extra is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from rttc_graph.errors import ConfigurationError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return a module that one of our extras installs.

    Args:
        module: Dotted name, as in an import statement.
        extra: Name in the brackets of `rttc-graph[…]`.
        purpose: What needs it, as the subject of a sentence in the plural: `parquet files`.

    Raises:
        ConfigurationError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ConfigurationError(
            f"{purpose} need {module.partition('.')[0]!r}, which is not installed: "
            f"pip install 'rttc-graph[{extra}]'"
        ) from exc


def require_evaluation() -> None:
    """Check that what figures are made with is there, before answers are collected for hours.

    Raises:
        ConfigurationError: A library of the extra `eval` is not installed.
    """
    for module in ("matplotlib", "scipy", "sklearn"):
        require(module, extra="eval", purpose="evaluations")
