"""Holds a streamed response back until it is known whether it has a status of its own.

A stream has status 200 from its first byte on. So no byte is sent before an arm has answered, the
run has failed, or some seconds have passed; until then what is the client's mistake ends the
request with the status that it has without a stream.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from rttc_graph.errors import RttcError
from rttc_graph.serving.http_errors import HttpError, as_http_error

__all__ = ("StreamStart",)

_log = logging.getLogger(__name__)

_SECONDS = 5.0
"""Time that a stream waits before its first byte, so that a mistake still gets an error status."""


class StreamStart:
    """Whether a request's stream may begin.

    Args:
        seconds: After which it may in any case.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._is_known = asyncio.Event()
        self._error: HttpError | None = None

    @property
    def error(self) -> HttpError | None:
        """How the run has failed, as the client is told it; `None` if it has not."""
        return self._error

    def allow(self) -> None:
        """Note that an arm has answered."""
        self._is_known.set()

    def fail(self, error: RttcError) -> None:
        """Note how the run has failed."""
        self._error = as_http_error(error)
        self._is_known.set()

    async def wait(self) -> None:
        """Wait until the first byte may be sent.

        Raises:
            HttpError: There is to be none: the run has failed by the client's mistake.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_known.wait(), self._seconds)
        if self._error is not None and self._error.status < 500:
            raise self._error

    def told(self, error: RttcError) -> HttpError:
        """Return what an event of the stream says of a failure, which the log has whole."""
        problem = as_http_error(error)
        if problem.status >= 500:
            _log.warning("a stream ended with %s: %s", problem.status, error)
        return problem
