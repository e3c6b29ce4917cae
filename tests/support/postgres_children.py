"""Processes of their own for tests: to be killed, to race, to be somebody else.

They are forked from a server process that has imported everything once, so each starts in
milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import multiprocessing
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias

from rttc_graph.errors import RttcError
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres

P = ParamSpec("P")
Pipe: TypeAlias = "Connection[Any, Any]"

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["postgres_children", "knowledge_children"])


class Child:
    """A process that runs a function of an importable module with one end of a pipe."""

    def __init__(
        self, function: Callable[Concatenate[Pipe, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=function, args=(theirs, *args), kwargs=kwargs)
        self._process.start()
        theirs.close()

    def said(self) -> Any:
        """Wait for the next thing that it sends."""
        if not self._pipe.poll(60):
            raise TimeoutError("the child said nothing for a minute")
        return self._pipe.recv()

    def tell(self, word: object = None) -> None:
        """Send it something."""
        self._pipe.send(word)

    def kill(self) -> None:
        """Kill it with -9."""
        self._process.kill()
        self._finish()

    def wait(self) -> int | None:
        """Wait until it ends by itself and return its exit status."""
        self._process.join(60)
        status = self._process.exitcode
        self._finish()
        return status

    def _finish(self) -> None:
        self._process.join(60)
        self._process.close()
        self._pipe.close()


def use_server(pipe: Pipe, home: Path) -> None:
    """Use a server until told to end."""
    server = EmbeddedPostgres(home).start()
    pipe.send(server.dsn)
    pipe.recv()
    pipe.send(server.release())


def keep_server(pipe: Pipe, home: Path) -> None:
    """Start a server to be kept, and end."""
    pipe.send(EmbeddedPostgres(home).start(keep=True).dsn)


def fork_with_server(pipe: Pipe, home: Path) -> None:
    """Fork while using a server; the fork leaves it, joins it and leaves again."""
    server = EmbeddedPostgres(home).start()
    if os.fork() == 0:
        server.release()
        server.start().release()
        os._exit(0)
    os.wait()
    status = server.status()
    pipe.send((status.running, status.in_use))
    server.release()


def start_over_zombie(pipe: Pipe, home: Path) -> None:
    """Kill the server without reaping it, then start it again."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become our children
    server = EmbeddedPostgres(home).start()
    pid = server.status().pid or 0
    os.kill(pid, signal.SIGKILL)
    while not _is_zombie(pid):
        time.sleep(0.01)
    server.start()
    pipe.send((_is_zombie(pid), server.status().running))
    server.release()


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def use_server_as(pipe: Pipe, user: str, home: Path, packages: Path | None = None) -> None:
    """Become another user, then use a server until told to end.

    Args:
        pipe: To the test.
        user: Whom to become.
        home: Of the server.
        packages: Where the programs are, if the user may not enter the folder they are in.
    """
    if packages is not None:
        sys.path.insert(0, str(packages))
        importlib.invalidate_caches()
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    try:
        use_server(pipe, home)
    except RttcError as exc:
        pipe.send(exc.args[0])


def open_as(pipe: Pipe, user: str, path: Path) -> None:
    """Become another user, and tell whether a file can be opened for reading."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        pipe.send("refused")
    else:
        pipe.send("opened")


def hold_lock(pipe: Pipe, path: Path) -> None:
    """Hold a lock file until killed."""
    with contextlib.closing(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT))) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pipe.send("held")
        pipe.recv()
