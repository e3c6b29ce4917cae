"""Builds the HNSW indexes of large partitions while everybody goes on reading and writing.

A build is `concurrently`, by one process at a time for each partition; what an interrupted build
left behind is dropped first, since "if not exists" would take it for the index.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import DiskFull
from psycopg.rows import DictRow, dict_row

from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.integrations.concurrency.daemon_threads import on_daemon
from rttc_graph.integrations.postgres.connection_setup import cut
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.psycopg_errors import translated
from rttc_graph.integrations.postgres.statements import statement

__all__ = ("IndexBuilder", "IndexProgress", "has_own_partition")

_LOCK = 0x72747469  # "rtti"; the second half of the key is the domain's id
_POLL_SECONDS = 0.2
_COLUMNS = (
    "domain_id",
    "tenant",
    "id",
    "external_id",
    "question",
    "answer",
    "metadata",
    "embedding",
    "created_at",
)
_STOP_SECONDS = 5.0
_BUILD_SETTINGS = {
    "statement_timeout": "0",
    "client_min_messages": "warning",
}
_LEAST_BUILD_BYTES = 64 * 2**20
_MOST_BUILD_BYTES = 2**30
"""Memory of a build where its role has no more: 500,000 rows of 384 dimensions take 585 MB.

A parallel build fills all of it with zeros before it begins, so it is no more than the rows take.
"""

_ROW_BYTES = 1024
"""Memory of a row in a build beside its vector, with a fifth of the whole to spare.

Measured: 32 MB hold 22,615 rows of 384 dimensions, 1,484 bytes each, of which the vector has 768.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress:
    """Progress of an index build."""

    domain: str
    phase: str
    """Phase of the build, as the server names it."""
    done: int
    """Progress towards `total`, in the phase's own unit."""
    total: int


class IndexBuilder:
    """Builds missing indexes on daemon threads: a process never waits for them to exit.

    Args:
        database: Where the samples are.
        index_rows: Rows of a partition from which on it has an index.
    """

    def __init__(self, database: Database, index_rows: int) -> None:
        self._database = database
        self._index_rows = index_rows
        self._lock = threading.Lock()
        self._in_background: Future[list[str]] | None = None

    def start(
        self, stop: threading.Event, on_progress: Callable[[IndexProgress], None] | None
    ) -> Future[list[str]]:
        """Start to build all missing indexes; the result names their domains.

        Args:
            stop: Ends the build when it is set.
            on_progress: Called on the thread of the build, a few times a second.
        """
        return on_daemon(lambda: self._build_all(stop, on_progress))

    def build_in_background(self) -> None:
        """Start to build what is missing unless that is going on."""
        with self._lock:
            if self._in_background is None or self._in_background.done():
                self._in_background = self.start(threading.Event(), None)

    def _build_all(
        self, stop: threading.Event, on_progress: Callable[[IndexProgress], None] | None
    ) -> list[str]:
        def missing(session: DatabaseSession) -> list[DictRow]:
            return list(session.rows("unindexed_domains", threshold=self._index_rows))

        action = "build an index"
        domains = self._database.execute_work_here(action, missing, error=KnowledgeBaseError)
        with translated(action, KnowledgeBaseError):
            return [
                domain["name"] for domain in domains if self._build_one(domain, stop, on_progress)
            ]

    def _build_one(
        self,
        domain: DictRow,
        stop: threading.Event,
        on_progress: Callable[[IndexProgress], None] | None,
    ) -> bool:
        """Build a partition's index unless another process does; return whether it is there."""
        with self._database.connect() as connection, self._watching(on_progress) as watcher:
            build = on_daemon(lambda: _create_index(connection, domain, stop))
            while not build.done():
                wait([build], timeout=_POLL_SECONDS)
                if stop.is_set() or self._database.is_closed:
                    stop.set()
                    connection.cancel_safe(timeout=_STOP_SECONDS)
                    if not wait([build], timeout=_STOP_SECONDS).done:  # the server is silent
                        cut(connection)
                elif watcher is not None and on_progress is not None:
                    pid = connection.info.backend_pid
                    for progress in _progress(watcher, pid, domain["name"]):
                        on_progress(progress)
            return build.result()

    @contextmanager
    def _watching(
        self, on_progress: Callable[[IndexProgress], None] | None
    ) -> Generator[Connection[Any] | None]:
        if on_progress is None:
            yield None
            return
        with self._database.connect() as watcher:
            yield watcher


def _create_index(connection: Connection[Any], domain: DictRow, stop: threading.Event) -> bool:
    domain_id: int = domain["id"]
    names = {
        "index": sql.Identifier(f"rttc_sample_{domain_id}_hnsw"),
        "partition": sql.Identifier(f"rttc_sample_{domain_id}"),
    }
    if not _lock(connection, domain_id, stop):
        return False
    try:
        with _settings(connection, _BUILD_SETTINGS):
            if not has_own_partition(connection, domain_id):
                _move_out(connection, domain_id)
            if not _is_valid(connection, domain_id):
                memory = _build_memory(connection, names, int(domain["samples"]))
                with _settings(connection, {"maintenance_work_mem": f"{memory // 1024}kB"}):
                    _build(connection, names)
                connection.execute(sql.SQL("analyze {partition}").format(**names))
            return True
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(%s, %s)", (_LOCK, domain_id))


def has_own_partition(connection: Connection[Any], domain_id: int) -> bool:
    """Tell whether a domain has a partition of its own, or shares that of the small ones."""
    query = "select to_regclass(%s::text) is not null as found"
    cursor = connection.cursor(row_factory=dict_row)
    row = cursor.execute(query, (f"rttc_sample_{domain_id}",)).fetchone()
    return bool(row and row["found"])


def _move_out(connection: Connection[Any], domain_id: int) -> None:
    """Give a domain a partition of its own; searches wait only while it is attached.

    The lock on the domain ends ingests into it. It comes first, as in every ingest, and the one on
    the parent table second, as in a re-embedding, so nobody waits in a circle.
    """
    names = {
        "partition": sql.Identifier(f"rttc_sample_{domain_id}"),
        "domain_id": sql.Literal(domain_id),
        "columns": sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
    }
    with connection.transaction():
        for text in (
            "select from rttc_domain where id = {domain_id} for update",
            "lock table only rttc_sample in share update exclusive mode",
            "create table {partition} (like rttc_sample including all)",
            "insert into {partition} ({columns}) "
            "select {columns} from rttc_sample_small where domain_id = {domain_id}",
            "delete from rttc_sample_small where domain_id = {domain_id}",
            "alter table rttc_sample attach partition {partition} for values in ({domain_id})",
        ):
            connection.execute(sql.SQL(text).format(**names))


def _build_memory(
    connection: Connection[Any], names: Mapping[str, sql.Identifier], rows: int
) -> int:
    """Return the bytes that a build of so many rows takes, within what its role may have."""
    own: int = _value(connection, "select pg_size_bytes(current_setting('maintenance_work_mem'))")
    query = sql.SQL("select vector_dims(embedding) from {partition} limit 1").format(**names)
    found = connection.execute(query).fetchone()
    numbers = int(found[0]) if found else 0
    taken = rows * (2 * numbers + _ROW_BYTES)  # a number of a halfvec has two bytes
    return min(max(taken, _LEAST_BUILD_BYTES), max(own, _MOST_BUILD_BYTES))


@contextmanager
def _settings(connection: Connection[Any], settings: Mapping[str, str]) -> Generator[None]:
    """Set and put back; the connection may be borrowed from a pool of the caller's."""
    put = "select set_config(%s, %s, false)"
    before = {name: _value(connection, "select current_setting(%s)", name) for name in settings}
    for name, value in settings.items():
        connection.execute(put, (name, value))
    try:
        yield
    finally:
        if not connection.closed:
            for name, value in before.items():
                connection.execute(put, (name, value))


def _build(connection: Connection[Any], names: dict[str, sql.Identifier]) -> None:
    drop = sql.SQL("drop index concurrently if exists {index}").format(**names)
    create = sql.SQL(
        "create index concurrently {index} on {partition} "
        "using hnsw (embedding halfvec_cosine_ops) with (m = 16, ef_construction = 64)"
    ).format(**names)
    connection.execute(drop)
    try:
        connection.execute(create)
    except DiskFull:
        # In a container a parallel build may find less shared memory than it asks for.
        with _settings(connection, {"max_parallel_maintenance_workers": "0"}):
            connection.execute(drop)
            connection.execute(create)


def _lock(connection: Connection[Any], domain_id: int, stop: threading.Event) -> bool:
    """Wait until no other process builds this index, by asking; `False` if told to stop."""
    while not _value(connection, "select pg_try_advisory_lock(%s, %s)", _LOCK, domain_id):
        if stop.wait(_POLL_SECONDS):
            return False
    return True


def _is_valid(connection: Connection[Any], domain_id: int) -> bool:
    valid = "select indisvalid from pg_index where indexrelid = to_regclass(%s)"
    return bool(_value(connection, valid, f"rttc_sample_{domain_id}_hnsw"))


def _progress(watcher: Connection[Any], pid: int, domain: str) -> Generator[IndexProgress]:
    cursor = watcher.cursor(row_factory=dict_row)
    for row in cursor.execute(statement("index_progress"), {"pid": pid}):
        yield IndexProgress(domain=domain, phase=row["phase"], done=row["done"], total=row["total"])


def _value(connection: Connection[Any], query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None
