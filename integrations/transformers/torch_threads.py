"""How many torch threads a lane gets: as many as there are cores that nobody else uses.

torch's threads meet at a barrier after every operator, so one of them on a core that somebody else
uses holds up all: on two busy cores two threads were four times slower than one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

__all__ = ("ThreadsByLoad",)

_MOST = torch.get_num_threads()
"""torch's thread count at start; read once, because `set_num_threads` changes it."""

_LOAD_SECONDS = 60.0
"""Time constant of the load average that is read, the first of the system's three."""

LOOK_AGAIN_SECONDS = 5.0
"""Interval at which the system renews its load average."""


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows keeps no average


@dataclass(slots=True, kw_only=True)
class ThreadsByLoad:
    """Follows the load of the others: the machine's average without this process's own part.

    The own part is averaged from the process's CPU time in the way the system averages the load.
    """

    most: int = _MOST
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    load: Callable[[], float] = _load
    """Runnable threads of the machine, averaged over the last minute."""
    cpu_seconds: Callable[[], float] = time.process_time
    """Seconds of all threads of this process."""
    clock: Callable[[], float] = time.monotonic
    _own: float = 0.0
    _looked_at: float | None = None
    _used: float = 0.0
    _threads: int = 1

    def now(self) -> int:
        """Return how many threads to use, at least 1; cheap enough for every job."""
        now = self.clock()
        if self._looked_at is None:
            self._look(now)
        elif now - self._looked_at >= LOOK_AGAIN_SECONDS:
            self._count_own(now - self._looked_at)
            self._look(now)
        return self._threads

    def _look(self, now: float) -> None:
        self._looked_at, self._used = now, self.cpu_seconds()
        idle = self.cores - max(0.0, self.load() - self._own)
        self._threads = max(1, min(self.most, round(idle)))

    def _count_own(self, seconds: float) -> None:
        """Let the own part of the average decay by as much as the load's, towards what it was."""
        kept = math.exp(-seconds / _LOAD_SECONDS)
        running = (self.cpu_seconds() - self._used) / seconds
        self._own = kept * self._own + (1 - kept) * running
