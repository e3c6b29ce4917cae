"""A first-come, first-served queue for requests, with a limit on how many run at once.

Requests that turn out to be long, such as panels of many draws, have a quarter of the places at
most, so that short ones need not wait for their whole length. All belongs to the event loop of the
server, which is the only one to touch it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from rttc_graph.serving.http_errors import HttpError

__all__ = ("Place", "RequestQueue")

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
        self._long_waiting: deque[asyncio.Future[None]] = deque()
        self._long_places = max(1, places // 4)  # one panel of 16 fills an engine's batch
        self._long_inside = 0
        self._usual_seconds = 1.0
        self.inside = 0
        """Requests inside."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting) + len(self._long_waiting)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[Place]:
        """Wait for a place, and keep it for the block.

        Raises:
            HttpError: The queue is full, or the wait took too long; with status 429.
        """
        came = self._clock()
        await self._enter()
        started = self._clock()
        place = Place(self, until=came + self._patience_seconds)
        try:
            yield place
        finally:
            took = self._clock() - started
            self._usual_seconds += _SMOOTHING * (took - self._usual_seconds)
            if place.is_held:
                self._long_inside -= place.is_long
                self._leave()

    async def lengthen(self, place: Place, until: float) -> None:
        """Make a place a long one; see `Place.lengthen`."""
        if self._long_inside < self._long_places and not self._long_waiting:
            self._long_inside += 1
        else:
            self._refuse_if_full()
            turn = asyncio.get_running_loop().create_future()
            self._long_waiting.append(turn)
            place.is_held = False
            self._leave()
            await self._wait(turn, self._long_waiting, max(0.0, until - self._clock()))
        place.is_held = place.is_long = True

    async def _enter(self) -> None:
        if self.inside < self._places and not self._waiting:
            self.inside += 1
            return
        self._refuse_if_full()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await self._wait(turn, self._waiting, self._patience_seconds)

    def _refuse_if_full(self) -> None:
        if self.waiting >= self._queue:
            raise self._too_busy(f"{self.inside} requests are being answered, {self.waiting} wait")

    async def _wait(
        self, turn: asyncio.Future[None], queue: deque[asyncio.Future[None]], seconds: float
    ) -> None:
        """Wait for a turn; who gives up leaves the queue, or passes on a place just granted."""
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            self._give_up(turn, queue)
            waited = f"no place became free in {self._patience_seconds:.0f} s"
            raise self._too_busy(waited) from None
        except asyncio.CancelledError:
            self._give_up(turn, queue)
            raise

    def _give_up(self, turn: asyncio.Future[None], queue: deque[asyncio.Future[None]]) -> None:
        if turn in queue:
            queue.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._long_inside -= queue is self._long_waiting
            self._leave()

    def _leave(self) -> None:
        """Hand the place to the first in the queue that may have it, or free it."""
        if self._long_inside < self._long_places and _granted(self._long_waiting):
            self._long_inside += 1
        elif not _granted(self._waiting):
            self.inside -= 1

    def _too_busy(self, why: str) -> HttpError:
        rounds = (self.waiting + 1) / self._places
        advice = min(_LONGEST_ADVICE_SECONDS, rounds * self._usual_seconds)
        return HttpError(
            429, f"{why}; try again later", kind="TooManyRequests", retry_after_seconds=advice
        )


class Place:
    """A place inside, as whoever has it sees it.

    Args:
        queue: Its queue.
        until: Reading of the queue's clock up to which the request may wait.
    """

    def __init__(self, queue: RequestQueue, *, until: float) -> None:
        self._queue = queue
        self._until = until
        self.is_held = True
        """Whether it is this request's now."""
        self.is_long = False

    async def lengthen(self) -> None:
        """Say that the request takes long; it gives its place to the next one where too many do.

        Then it waits anew, as long as is left of the longest wait.

        Raises:
            HttpError: Too many wait, or the wait took too long; with status 429.
        """
        if not self.is_long:
            await self._queue.lengthen(self, self._until)


def _granted(queue: deque[asyncio.Future[None]]) -> bool:
    """Tell the first of a queue that its turn has come; whether there was one."""
    while queue:
        turn = queue.popleft()
        if not turn.done():
            turn.set_result(None)
            return True
    return False
