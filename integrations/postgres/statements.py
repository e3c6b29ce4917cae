"""Reads the statements of `queries.sql`, which are known by the names above them."""

from __future__ import annotations

import functools
import importlib.resources
import re

__all__ = ("statement",)

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def statement(name: str) -> bytes:
    """Return the text of a statement.

    Raises:
        KeyError: There is none of that name.
    """
    return _statements()[name]


@functools.cache
def _statements() -> dict[str, bytes]:
    folder = importlib.resources.files("rttc_graph.integrations.postgres")
    _, *parts = _HEADER.split((folder / "queries.sql").read_text(encoding="utf-8"))
    return {name: text.strip().encode() for name, text in zip(parts[::2], parts[1::2], strict=True)}
