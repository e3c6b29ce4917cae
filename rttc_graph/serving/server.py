"""Runs an application until it is told to stop, then lets what is running end."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter

from rttc_graph.errors import ConfigurationError
from rttc_graph.serving.connections import limited_protocol
from rttc_graph.serving.json_logs import json_logs
from rttc_graph.serving.log_limit import limited_logs
from rttc_graph.serving.serve_options import ServeOptions

__all__ = ("listen", "run_until_stopped", "server_config")

_BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""

_ACCEPTED_AT_ONCE = 32
"""So many are accepted before the first of them is looked at."""

_OTHER_FILES = 96
"""Files that are not connections: those of the database, the models and the program."""


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
    options: ServeOptions | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then refuse connections and wait for running requests.

    What is still running after `drain_seconds` is cancelled. Called on the main thread.

    Args:
        app: The application.
        listening: From `listen`.
        drain_seconds: What running requests get to end in.
        options: Limits of connections; the usual ones by default.
        on_ready: Called once connections are accepted.
    """
    options = replace(options or ServeOptions(), drain_seconds=drain_seconds)
    # It would cut LangServe's streams at the signal, instead of letting their runs end.
    AppStatus.enable_automatic_graceful_drain = False
    server = _Server(server_config(app, options), listening, on_ready)
    lines = json_logs() if options.log_format == "json" else nullcontext()
    with _signals_end_here(), limited_logs(), lines:
        server.run(sockets=[listening])


def server_config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    """Return how uvicorn serves an application within the limits of connections.

    Loop and protocol are named, not found: others have no limit on a request's head, and accept
    all that wait at once.
    """
    as_json = options.log_format == "json"
    config = uvicorn.Config(
        app,
        log_level="warning",
        log_config=None if as_json else LOGGING_CONFIG,
        access_log=options.access_log,
        server_header=False,
        loop="asyncio",
        http=limited_protocol(_within_files(options)),
        ws="none",
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=round(options.idle_seconds) + 1,  # `idle_seconds` itself ends it
        timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
    )
    if options.access_log:
        _log_requests()
    return config


def _log_requests() -> None:
    """Let uvicorn's log of requests speak, a line each with the time in it."""
    logger = logging.getLogger("uvicorn.access")
    logger.setLevel(logging.INFO)
    line = '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s'
    for handler in logger.handlers:
        handler.setFormatter(AccessFormatter(line, use_colors=False))


def _within_files(options: ServeOptions) -> ServeOptions:
    """Return limits that leave the process files for its work; ask for more files first."""
    wanted = options.connections + _ACCEPTED_AT_ONCE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return options
    return replace(options, connections=max(1, soft - _ACCEPTED_AT_ONCE - _OTHER_FILES))


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(
        self, config: uvicorn.Config, listening: socket.socket, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._listening.listen(_BACKLOG)  # the loop has set it to what it accepts at once
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
