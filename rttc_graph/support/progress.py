"""How work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int, int], None]
"""Takes how many items are done, and of how many; it must not block."""


def show_nothing(done: int, total: int) -> None:
    """Drop the progress, where nobody watches."""
    del done, total
