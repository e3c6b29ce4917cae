"""A limit on how often one place of the code may log, for what clients can bring about."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ("LogLimit", "limited_logs")

_LINES = 10
_SECONDS = 60.0

_NAMES = (
    "asyncio",
    "uvicorn.error",
    "rttc_graph.serving.http_app",
    "rttc_graph.serving.connections",
    "rttc_graph.serving.admission.admission",
    "rttc_graph.serving.admission.authentication",
    "rttc_graph.serving.stream_start",
)
"""Loggers that a client can make speak: filters do not hold for those below them."""


class LogLimit(logging.Filter):
    """Lets some lines of each place in the code through, then says how many were left out.

    Args:
        lines: Most lines from one place within `seconds`.
        seconds: After which it may speak again.
        clock: Time in seconds.
    """

    def __init__(
        self,
        lines: int = _LINES,
        seconds: float = _SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line may be written."""
        place, now = (record.pathname, record.lineno), self._clock()
        began, count = self._places.get(place, (now, 0))
        if now - began >= self._seconds:
            if (left_out := count - self._lines) > 0:
                record.msg = f"{record.getMessage()} ({left_out} lines like it were left out)"
                record.args = None
            began, count = now, 0
        self._places[place] = (began, count + 1)
        return count < self._lines


@contextmanager
def limited_logs() -> Generator[None]:
    """Limit the lines that clients of a server can bring about, for the block."""
    limit = LogLimit()
    loggers = [logging.getLogger(name) for name in _NAMES]
    for logger in loggers:
        logger.addFilter(limit)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(limit)
