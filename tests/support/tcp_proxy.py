"""A TCP port in front of a Unix socket that breaks connections on command."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class TcpProxy:
    """Forwards bytes both ways until it is told not to.

    Args:
        target: The Unix socket behind the port.
    """

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._refusing = False
        self._silent = threading.Event()
        self._mark: bytes | None = None
        self.silenced = 0
        """Connections that went silent by themselves."""
        self.accepted = 0
        """Connections so far."""

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self._listener.getsockname()[1])

    def drop(self) -> None:
        """Break all connections; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def refuse(self, refusing: bool = True) -> None:
        """Break all connections, and new ones as soon as they are made."""
        self._refusing = refusing
        self.drop()

    def fall_silent(self) -> None:
        """Keep connections open and forward nothing any more."""
        self._silent.set()

    def silence(self, mark: bytes | None) -> None:
        """Let each connection fall silent whose client sends `mark`; others work."""
        self._mark = mark

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.refuse()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        silent = False
        with client, server, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(65_536)
                    if not data:
                        return
                    if source is client and self._mark is not None and self._mark in data:
                        silent = True
                        self.silenced += 1
                    if not (silent or self._silent.is_set()):
                        (server if source is client else client).sendall(data)
