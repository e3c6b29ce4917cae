"""Connections of a server: how many there may be, and how long one may be silent.

Whoever can reach the port can open connections, with a key or without. So one that does not send
its request in time is cut off, and where there is no room for a new one, the one that has waited
longest for a whole request gives its place to it: clients that send what they want at once are
answered however many others only hold connections open.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from rttc_graph.serving.client_address import counted_address
from rttc_graph.serving.serve_options import ServeOptions

__all__ = ("Connections", "limited_protocol")

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 0.5

_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\n"
)


class Connections:
    """The open connections of one server, on its event loop.

    Args:
        options: The limits.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._open: dict[LimitedProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._waiting: dict[LimitedProtocol, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def admit(self, new: LimitedProtocol) -> bool:
        """Take a connection in, if need be in the place of one that waits for its request.

        Returns:
            Whether there was room: there is none where as many requests are being answered.
        """
        options, address = self._options, new.address
        has_room = True
        if self._by_address[address] >= options.address_connections:
            has_room = self._evict(address)
        elif len(self._open) >= options.connections:
            has_room = self._evict(None)
        self._open[new] = None
        self._by_address[address] += 1
        if has_room:
            self.wait(new)
            new.due = new.loop.time() + options.head_seconds
        if self._sweeper is None:
            self._sweeper = new.loop.call_later(_SWEEP_SECONDS, self._sweep, new.loop)
        return has_room

    def wait(self, connection: LimitedProtocol) -> None:
        """Note that a connection has no whole request; the last one noted is the last to go."""
        if connection in self._open:
            self._waiting.setdefault(connection)

    def work(self, connection: LimitedProtocol) -> None:
        """Note that a request is being answered."""
        self._waiting.pop(connection, None)

    def leave(self, connection: LimitedProtocol) -> None:
        """Forget a connection that has ended."""
        self._waiting.pop(connection, None)
        if connection not in self._open:
            return
        del self._open[connection]
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

    def _evict(self, address: str | None) -> bool:
        """Cut off the connection that waits longest, of an address or of all."""
        for oldest in self._waiting:
            if address in (None, oldest.address):
                _log.warning("too many connections: the ones that wait longest are cut off")
                oldest.cut()
                return True
        _log.warning("too many connections, all with requests: a new one was refused")
        return False

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.look(now)
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep, loop) if self._open else None


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, within the limits of `connections`.

    Of uvicorn's two protocols the one that bounds a request's head (64 KiB). `due` is when the
    connection is cut off: until its head is whole, and once its answer was written. In between
    the application bounds what a request may take.
    """

    limits: Connections
    options: ServeOptions

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.due: float | None = None
        self._has_begun = True  # the first byte of a new connection is waited for no longer
        self._full_since: float | None = None

    @property
    def address(self) -> str:
        """What the client counts as; all of a socket without addresses are one."""
        return counted_address(self.client[0]) if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or refuse it."""
        super().connection_made(transport)
        if not self.limits.admit(self):
            transport.write(_NO_ROOM)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.limits.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; only the first one of a request, never a later one, moves `due`."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the client to take its answer."""
        self._has_begun = False
        self.due = self.loop.time() + self.options.idle_seconds
        super().on_response_complete()
        self._follow(has_data=False)

    def pause_writing(self) -> None:
        """Note that the client does not take what it is sent."""
        self._full_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._full_since = None
        super().resume_writing()

    def look(self, now: float) -> None:
        """Cut the connection off if its time has come; one that only closes gets some."""
        if self._full_since is not None and now - self._full_since >= self.options.idle_seconds:
            self.cut()
            return
        if self.due is None and self.transport.is_closing():
            self.due = now + self.options.head_seconds
        if self.due is not None and now >= self.due:
            self.cut()

    def cut(self) -> None:
        """End the connection at once, whatever is still to be sent."""
        self.limits.leave(self)
        self.transport.abort()

    def _follow(self, *, has_data: bool = True) -> None:
        """Note where in its request the connection is."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn's type leaves it out
        if cycle is None or cycle.response_complete:
            self.limits.wait(self)
            if has_data and not self._has_begun:
                self._has_begun = True
                self.due = self.loop.time() + self.options.head_seconds
            return
        self.due = None
        if cycle.more_body:
            self.limits.wait(self)
        else:
            self.limits.work(self)


def limited_protocol(options: ServeOptions) -> type[LimitedProtocol]:
    """Return the protocol of one server: its connections share their limits."""
    shared = {"limits": Connections(options), "options": options}
    return type("LimitedProtocol", (LimitedProtocol,), shared)
