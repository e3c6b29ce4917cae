"""A real PostgreSQL in a folder of the user's, shared by all processes that name the folder.

Every user of the server holds a shared `flock`; the last one to leave stops it, unless it was
started to be kept. A killed process leaves nothing to clean up: the kernel drops its lock.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from psycopg import pq

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.postgres.embedded_server.data_folder import explained, locate_data
from rttc_graph.integrations.postgres.embedded_server.lock_files import FileLock
from rttc_graph.integrations.postgres.embedded_server.programs import find_programs
from rttc_graph.integrations.postgres.embedded_server.server_process import ServerProcess

__all__ = ("EmbeddedPostgres", "EmbeddedStatus")

_EXIT_SECONDS = 30.0
"""Longest wait of `release` for a process that is starting the server; it may run at exit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStatus:
    """Status of an embedded server, read without starting it."""

    running: bool
    """Whether it accepts connections."""
    pid: int | None
    kept: bool
    """Whether it stays up when its last user leaves."""
    in_use: bool
    """Whether a process, this one included, uses it, starts it or stops it."""
    data: Path
    dsn: str


class EmbeddedPostgres:
    """Starts, shares and stops the server of one folder.

    As root the server runs as the owner of the data folder, `nobody` for a new one. If that user
    may not enter `home`, the data goes to a folder outside, which `home` records.

    Args:
        home: Folder of this installation; it is created.
        conf: Settings of `postgresql.conf` over ours.
        timeout_seconds: Longest wait for a start, a stop or another process that does either;
            recovery of a large database after a crash may take minutes.

    Raises:
        ConfigurationError: Windows, no programs installed, or a folder that cannot be used.
    """

    def __init__(
        self,
        home: Path,
        *,
        conf: Mapping[str, str] | None = None,
        timeout_seconds: float = 300.0,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "the embedded server does not run on Windows; give the DSN of a server, or use WSL"
            )
        self._folder = locate_data(home)
        programs = find_programs(self._folder.account)
        self._server = ServerProcess(
            self._folder, programs, conf or {}, timeout_seconds=timeout_seconds
        )
        self._timeout_seconds = timeout_seconds
        self._keep = self._folder.home / "keep"
        self._thread_lock = threading.Lock()
        self._place: _Place | None = None

    @property
    def dsn(self) -> str:
        """Connection string of the server's default database, over its private socket."""
        return self._server.dsn

    def start(self, *, keep: bool = False) -> Self:
        """Make sure that the server runs, and count this process among its users.

        Args:
            keep: Leave it running when its last user leaves, until `stop` is called.

        Raises:
            BackendError: It did not come up; the message ends with the end of its log.
            ConfigurationError: The programs cannot be run here, or the folder cannot be used.
        """
        with self._acting(self._timeout_seconds):
            place = self._own_place() or _Place(self._users(), os.getpid())
            place.users.take(shared=True)
            try:
                self._server.create()
                self._server.bring_up()
            except BaseException:
                self._leave(place)
                raise
            if keep:
                self._keep.touch()
            self._place = place
            atexit.unregister(self.release)
            atexit.register(self.release)
        return self

    def release(self) -> bool:
        """Leave the server; the last user to leave stops it unless it is kept.

        Returns:
            Whether the server was stopped.
        """
        with self._thread_lock:
            place = self._own_place()
            if place is None:
                return False
            if not self._folder.home.exists():  # removed with the server's data; this runs at exit
                self._leave(place)
                return False
            with (
                explained(self._folder.home),
                self._starting(min(_EXIT_SECONDS, self._timeout_seconds)),
            ):
                return self._stop_if(place, force=False, spare_kept=True)

    def stop(self, *, force: bool = False) -> bool:
        """Leave the server and stop it, also a kept one.

        Args:
            force: Stop it even if other processes use it.

        Returns:
            Whether it is down now; `False` means that other processes use it, and that the last
            of them will stop it.
        """
        with self._acting(self._timeout_seconds):
            self._keep.unlink(missing_ok=True)
            place = self._own_place() or _Place(self._users(), os.getpid())
            return self._stop_if(place, force=force, spare_kept=False)

    def status(self) -> EmbeddedStatus:
        """Return the state of the server without changing it."""
        with explained(self._folder.home):
            return EmbeddedStatus(
                running=self._server.ping() is pq.Ping.OK,
                pid=self._server.pid(),
                kept=self._keep.exists(),
                in_use=self._is_in_use(),
                data=self._folder.data,
                dsn=self.dsn,
            )

    @contextmanager
    def _acting(self, timeout_seconds: float) -> Generator[None]:
        """Keep other threads and processes out while the server is started or stopped."""
        with (
            self._thread_lock,
            explained(self._folder.home),
            self._starting(timeout_seconds),
        ):
            yield

    def _starting(self, timeout_seconds: float) -> AbstractContextManager[None]:
        return FileLock(self._folder.home / "start.lock").held(timeout_seconds)

    def _users(self) -> FileLock:
        return FileLock(self._folder.home / "users.lock")

    def _own_place(self) -> _Place | None:
        """Return this process's place; a fork inherits its parent's, which it must not give up."""
        return self._place if self._place and self._place.pid == os.getpid() else None

    def _leave(self, place: _Place) -> None:
        place.users.close()
        self._place = None
        atexit.unregister(self.release)

    def _stop_if(self, place: _Place, *, force: bool, spare_kept: bool) -> bool:
        """Give up this process's place, and stop the server if nothing speaks against it."""
        try:
            alone = place.users.take(shared=False)
            if (spare_kept and self._keep.exists()) or not (alone or force):
                return False
            self._server.shut_down()
            return True
        finally:
            self._leave(place)

    def _is_in_use(self) -> bool:
        """Try the users' lock, while nobody who might want it is starting or leaving."""
        starting, users = FileLock(self._folder.home / "start.lock"), self._users()
        try:
            return not (starting.take(shared=False) and users.take(shared=False))
        finally:
            users.close()
            starting.close()


@dataclass(frozen=True, slots=True)
class _Place:
    """A process's place among the users of a server."""

    users: FileLock
    pid: int
