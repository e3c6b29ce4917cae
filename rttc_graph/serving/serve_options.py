"""Limits of a server: sizes, numbers and times."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from typing import Literal

from rttc_graph.errors import ConfigurationError

__all__ = ("LogFormat", "ServeOptions", "is_loopback")

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Limits of a server; a request beyond them is refused, never truncated."""

    concurrency: int = 8
    """Runs at once, as many as the database has connections; the models' lanes batch them."""
    queue: int = 32
    """Requests that wait for a run to end; the next one gets 429 with Retry-After."""
    queue_seconds: float = 30.0
    """Longest wait in the queue, then 429."""
    run_seconds: float = 120.0
    """Longest run. A run's own budget is cut to it, so that it ends with its best answer."""
    body_bytes: int = 1024 * 1024
    """Largest body of a request."""
    ingest_bytes: int = 32 * 1024 * 1024
    """Largest body that brings samples: 256 with vectors of 1,000 numbers are some 6 MB."""
    body_seconds: float = 30.0
    """Longest wait for the whole body."""
    head_seconds: float = 10.0
    """Longest wait for a request's head, from the connection or its first byte on."""
    idle_seconds: float = 75.0
    """Longest time that a connection waits for the next request, or for the client to read on."""
    connections: int = 1000
    """Most connections at once; fewer if the process's limit of open files is lower. A new one
    replaces the one that has waited longest for a whole request."""
    address_connections: int = 250
    """Connections from one address; behind a proxy, all clients share one."""
    address_requests: float = 200.0
    """Requests per second from one address, on average; after a pause twice as many at once. More
    get 429; `/healthz` does not count."""
    batch: int = 16
    """Questions in one batch request; they run one after the other, in one place of the queue."""
    threads: int = 1000
    """Conversations that are remembered, in memory; the one used longest ago is forgotten."""
    drain_seconds: float = 30.0
    """Time that running requests get to finish when the server is asked to stop."""
    access_log: bool = False
    """Whether each request is written to the standard output: time, address, path and status."""
    log_format: LogFormat = "text"
    """Form of the lines of logs: words, or an object of JSON a line with the run's id."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call; none by default."""

    def __post_init__(self) -> None:
        lowest = {"queue": 0, "drain_seconds": 0}
        for item in fields(self):
            value = getattr(self, item.name)
            least = lowest.get(item.name)
            if item.name in ("access_log", "cors_origins", "log_format"):
                continue
            if value < least if least is not None else value <= 0:
                bound = "0 or more" if least is not None else "above 0"
                raise ConfigurationError(f"{item.name}={value!r} must be {bound}")

    @property
    def longest_seconds(self) -> float:
        """Longest time of a request after its body has arrived; after it something is stuck."""
        return self.queue_seconds + self.run_seconds + 10.0


def is_loopback(host: str) -> bool:
    """Tell whether only programs on this machine can reach a host name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
