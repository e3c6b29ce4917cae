"""Runs an application until it is told to stop, then lets what is running end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from rttc_graph.errors import ConfigurationError

__all__ = ("listen", "run_until_stopped")

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Name or address.
        port: 0 takes one that is free.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as exc:
        raise ConfigurationError(
            f"cannot listen on {host!r} port {port}: {exc}; choose another --host or --port"
        ) from exc


def run_until_stopped(
    app: ASGIApp,
    listening: socket.socket,
    *,
    drain_seconds: float,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then refuse connections and wait for running requests.

    What is still running after `drain_seconds` is cancelled. Called on the main thread.
    """
    # It would cut LangServe's streams at the signal, instead of letting their runs end.
    AppStatus.enable_automatic_graceful_drain = False
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    server = _Server(config, on_ready)
    with _signals_end_here():
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            await asyncio.get_running_loop().run_in_executor(None, self._on_ready)


@contextmanager
def _signals_end_here() -> Generator[None]:
    """Keep uvicorn from raising a signal once more, which would end us before we have closed."""

    def ignore(number: int, frame: FrameType | None) -> None:
        """Do nothing: the server has stopped for it."""

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, ignore) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
