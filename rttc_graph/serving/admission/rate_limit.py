"""A limit on how often something may come from one address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ("RateLimit",)

_MOST_REMEMBERED = 4096
"""Addresses; the one heard of longest ago is forgotten, and starts anew."""


class RateLimit:
    """Lets an address do something `rate` times a second, after a pause `burst` times at once.

    It belongs to the event loop of the server, which is the only one to touch it.

    Args:
        rate: Times a second, above 0.
        burst: Most times that are saved up, 1 or more.
        clock: Time in seconds.
    """

    def __init__(
        self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Remaining requests of each address, and the time at which that was so."""

    def wait_seconds(self, address: str) -> float:
        """Count one more time; return 0 if it may be, else after how many seconds it may."""
        now = self._clock()
        left, since = self._left.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        may = left >= 1
        self._left[address] = (left - 1 if may else left, now)
        while len(self._left) > _MOST_REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if may else (1 - left) / self._rate
