"""One call for all who want its result at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ("SharedCall",)

T = TypeVar("T")


class SharedCall(Generic[T]):
    """Makes a call once, however many wait for it; who comes after its end makes it anew.

    It belongs to one event loop. One who is cancelled leaves the call to the others.

    Args:
        call: Makes the call; it must end by itself.
    """

    def __init__(self, call: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._call = call
        self._running: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """Return what the call returns, or raise what it raises."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._call())
            self._running.add_done_callback(_look_at)
        return await asyncio.shield(self._running)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Look at how a call ended, so that nothing is logged where nobody has waited for it."""
    if not task.cancelled():
        task.exception()
