"""Creates, starts and stops one PostgreSQL server, whatever state the last one left behind.

It counts as up when it answers a connection, never because a process id exists; and nothing here
waits longer than `timeout_seconds`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import make_conninfo

from rttc_graph.errors import BackendError
from rttc_graph.integrations.postgres.connection_setup import without_environment
from rttc_graph.integrations.postgres.embedded_server.data_folder import DataFolder
from rttc_graph.integrations.postgres.embedded_server.lock_files import (
    forget_dead_server,
    server_pid,
)
from rttc_graph.integrations.postgres.embedded_server.programs import Programs
from rttc_graph.integrations.postgres.embedded_server.server_memory import (
    machine_bytes,
    server_memory_mb,
)

__all__ = ("ServerProcess",)

_CONF = {
    "listen_addresses": "",
    "port": "5432",  # names the socket; nothing listens on TCP
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "autovacuum_work_mem": "64MB",  # by default as much as a build of an index
    "jit": "off",  # compiling costs more than our short statements take
    "dynamic_shared_memory_type": "mmap",  # parallel HNSW builds fail in Docker's 64 MiB of shm
    "client_connection_check_interval": "2s",
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.ef_search": "100",
}
if sys.platform == "linux":
    _CONF["recovery_init_sync_method"] = "syncfs"  # recovery of 41 MB: 2 s, not 4-6 s

_PASSING = ("lock file", "shared memory block")
"""Parts of the log lines of a start that failed for what ends by itself soon after a crash."""


class ServerProcess:
    """The server of one data folder; callers see to it that only one of them acts at a time.

    Args:
        folder: Where its data is.
        programs: What to run it with.
        conf: Settings of `postgresql.conf` over ours.
        timeout_seconds: Longest wait for a start or a stop.
    """

    def __init__(
        self,
        folder: DataFolder,
        programs: Programs,
        conf: Mapping[str, str],
        *,
        timeout_seconds: float,
    ) -> None:
        self._folder = folder
        self._programs = programs
        memory = f"{server_memory_mb(machine_bytes())}MB"
        self._conf = {
            **_CONF,
            "shared_buffers": memory,
            "maintenance_work_mem": memory,
            **conf,
            "unix_socket_directories": str(folder.sockets),
        }
        self._timeout_seconds = timeout_seconds

    @property
    def dsn(self) -> str:
        """Connection string of the default database."""
        host = str(self._folder.sockets)
        return make_conninfo(host=host, port=self._conf["port"], user="postgres", dbname="postgres")

    def pid(self) -> int | None:
        """Return the process id of the living server."""
        return server_pid(self._folder.data)

    def ping(self) -> pq.Ping:
        """Ask the server whether it accepts connections."""
        with without_environment():
            return pq.Ping(pq.PGconn.ping(f"{self.dsn} connect_timeout=5".encode()))

    def create(self) -> None:
        """Make the data folder unless it is there, under another name until it is complete.

        Raises:
            BackendError: `initdb` failed.
        """
        self._folder.prepare()
        if (self._folder.data / "PG_VERSION").exists():
            return
        for left in self._folder.store.glob("data.new-*"):
            shutil.rmtree(left)
        new_data = Path(tempfile.mkdtemp(prefix="data.new-", dir=self._folder.store))
        self._folder.give(new_data)
        arguments = ["-U", "postgres", "-E", "UTF8", "--no-instructions"]
        # The builtin provider: an upgrade of the C library cannot break indexes.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        arguments += ["--auth-local=trust", "--auth-host=scram-sha-256", self._sync_option()]
        status, output = self._run_program("initdb", "-D", str(new_data), *arguments)
        if status:
            raise BackendError(f"could not create a database in {str(new_data)!r}: {output}")
        new_data.rename(self._folder.data)

    def _sync_option(self) -> str:
        if self._conf.get("fsync") == "off":
            return "--no-sync"
        # initdb took 0.61 s with syncfs, 0.88 s with fsync and 0.52 s without either.
        return f"--sync-method={'syncfs' if sys.platform == 'linux' else 'fsync'}"

    def bring_up(self) -> None:
        """Start the server unless it answers, and wait until it does.

        Raises:
            BackendError: It did not come up; the message ends with the end of its log.
        """
        end = time.monotonic() + self._timeout_seconds
        while (answer := self.ping()) is not pq.Ping.OK:
            left = end - time.monotonic()
            if answer is pq.Ping.NO_RESPONSE and self.pid() is None:
                self._start(left)
            elif left <= 0:
                raise BackendError(
                    f"the embedded server, process {self.pid()}, has not answered on "
                    f"{str(self._folder.sockets)!r} for {self._timeout_seconds:.0f} s",
                    retryable=True,
                )
            else:
                time.sleep(0.05)

    def _start(self, left_seconds: float) -> None:
        mark = self._log_size()
        forget_dead_server(self._folder.data, self._folder.sockets)
        options = " ".join(shlex.quote(f"-c{name}={value}") for name, value in self._conf.items())
        wait = ("-w", "-t", str(max(1, int(left_seconds))))
        data, log = str(self._folder.data), str(self._folder.log)
        status, output = self._run_program(
            "pg_ctl", "start", "-D", data, *wait, "-l", log, "-o", options
        )
        if not status:
            return
        log_text = self._log_since(mark)
        if left_seconds <= 1 or not any(part in log_text for part in _PASSING):
            raise BackendError(
                f"the embedded server did not start: {output}; end of {log!r}: "
                f"{log_text[-1500:].strip()}"
            )
        time.sleep(0.2)

    def shut_down(self) -> None:
        """Stop the server, its clients' transactions rolled back, and wait until it has ended.

        Raises:
            BackendError: It has not ended.
        """
        if self.pid() is None:
            return
        wait = ("-w", "-t", str(int(self._timeout_seconds)))
        data = str(self._folder.data)
        status, output = self._run_program("pg_ctl", "stop", "-D", data, *wait, "-m", "fast")
        if status and self.pid() is not None:
            raise BackendError(f"the embedded server did not stop: {output}", retryable=True)
        self._folder.clean_up()  # nobody starts one meanwhile: who stops it holds the lock

    def _run_program(self, program: str, *arguments: str) -> tuple[int, str]:
        programs = self._programs.beside(self._folder.store)
        timeout_seconds = self._timeout_seconds + 10  # the program's own limit comes first
        return programs.run(program, *arguments, timeout_seconds=timeout_seconds)

    def _log_size(self) -> int:
        return self._folder.log.stat().st_size if self._folder.log.exists() else 0

    def _log_since(self, mark: int) -> str:
        if not self._folder.log.exists():
            return ""
        with self._folder.log.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")
