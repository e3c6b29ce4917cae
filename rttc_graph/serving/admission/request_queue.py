"""A first-come, first-served queue for requests, with a limit on how many run at once.

It belongs to the event loop of the server, which is the only one to touch it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from rttc_graph.serving.http_errors import HttpError

__all__ = ("RequestQueue",)

_LONGEST_ADVICE_SECONDS = 60.0
_SMOOTHING = 0.2


class RequestQueue:
    """Lets `places` requests in and `queue` wait, first come, first served.

    Args:
        places: Requests inside at once.
        queue: Requests that may wait; one more is refused at once.
        patience_seconds: Longest wait.
        clock: Time in seconds.
    """

    def __init__(
        self,
        places: int,
        queue: int,
        patience_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._queue = queue
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._usual_seconds = 1.0
        self.inside = 0
        """Requests inside."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Wait for a place, and keep it for the block.

        Raises:
            HttpError: The queue is full, or the wait took too long; with status 429.
        """
        await self._enter()
        started = self._clock()
        try:
            yield
        finally:
            took = self._clock() - started
            self._usual_seconds += _SMOOTHING * (took - self._usual_seconds)
            self._leave()

    async def _enter(self) -> None:
        if self.inside < self._places and not self._waiting:
            self.inside += 1
            return
        if len(self._waiting) >= self._queue:
            raise self._too_busy(f"{self.inside} requests are being answered, {self.waiting} wait")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience_seconds):
                await turn
        except TimeoutError:
            self._give_up(turn)
            waited = f"no place became free in {self._patience_seconds:.0f} s"
            raise self._too_busy(waited) from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Leave the queue, or pass on a place that was granted at the same moment."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._leave()

    def _leave(self) -> None:
        """Hand the place to the first in the queue, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.inside -= 1

    def _too_busy(self, why: str) -> HttpError:
        rounds = (self.waiting + 1) / self._places
        advice = min(_LONGEST_ADVICE_SECONDS, rounds * self._usual_seconds)
        return HttpError(
            429, f"{why}; try again later", kind="TooManyRequests", retry_after_seconds=advice
        )
