"""Locks that end with their process, and the lock files that PostgreSQL leaves behind.

`flock` is released by the kernel when a process dies, however it dies. PostgreSQL's own lock
files hold a process id instead, and a killed server's id may belong to a zombie or to a stranger.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rttc_graph.errors import BackendError, ConfigurationError

if sys.platform != "win32":
    import fcntl

__all__ = ("FileLock", "forget_dead_server", "server_pid")

_NO_PROCESS = 99_999_999
"""Above the largest process id of Linux (4,194,304) and macOS (99,999)."""


class FileLock:
    """A shared or exclusive lock on a file, waited for by asking, so that a wait has an end."""

    def __init__(self, path: Path) -> None:
        try:
            # Kept by number: an object would warn when a process ends without giving its lock up.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _close_to_others(self._file)
        except PermissionError as exc:
            raise ConfigurationError(
                f"{str(path)!r} belongs to another user; run as that user or choose another folder"
            ) from exc
        self._path = path

    def close(self) -> None:
        """Give the lock up and close the file."""
        os.close(self._file)

    def take(self, *, shared: bool, timeout_seconds: float = 0.0) -> bool:
        """Take the lock, changing what is held already; return whether it was had in time."""
        wanted = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        end = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(self._file, wanted)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.02)
            else:
                return True

    @contextmanager
    def held(self, timeout_seconds: float) -> Generator[None]:
        """Hold the lock exclusively, then close it.

        Raises:
            BackendError: Another process kept it for `timeout_seconds`.
        """
        try:
            if not self.take(shared=False, timeout_seconds=timeout_seconds):
                raise BackendError(
                    f"another process has held {str(self._path)!r} for {timeout_seconds:.0f} s",
                    retryable=True,
                )
            yield
        finally:
            self.close()


def _close_to_others(file: int) -> None:
    """Remove the rights of other users: anyone who can read a file can lock it for ever."""
    status = os.fstat(file)
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        os.fchmod(file, 0o600)


def server_pid(data: Path) -> int | None:
    """Return the process id of the living server of a data folder."""
    pid = _pid_in(data / "postmaster.pid")
    return pid if pid is not None and _is_living_postgres(pid) else None


def forget_dead_server(data: Path, sockets: Path) -> None:
    """Make a dead server's lock files name no process, where its id is still or again in use.

    PostgreSQL asks only whether a process has that id, so a zombie that nobody reaps, or any
    process that got the id after a reboot, would keep the server down for ever. The files stay,
    with the shared memory they name: backends that outlived their server are still noticed.
    """
    for path in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*.lock")):
        pid = _pid_in(path)
        if pid is not None and not _is_living_postgres(pid):
            _, _, rest = path.read_text().partition("\n")
            path.write_text(f"{_NO_PROCESS}\n{rest}")


def _pid_in(lock_file: Path) -> int | None:
    try:
        return int(lock_file.read_text().partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_living_postgres(pid: int) -> bool:
    if sys.platform == "linux":
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return "postgres" in name and rest.split()[0] not in "ZX"
    listing = subprocess.run(
        ["ps", "-o", "state=,comm=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, command = listing.stdout.strip().partition(" ")
    return "postgres" in command and not state.startswith("Z")
