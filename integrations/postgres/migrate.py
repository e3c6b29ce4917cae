"""Brings a database to this program's schema: numbered SQL files, each applied once, never edited.

Runs of several processes wait for each other by asking for an advisory lock: a blocking wait would
deadlock with `create index concurrently` in the process that holds it.

Servers may go on answering meanwhile. Whoever comes after a statement that waits for a table's lock
waits behind it, so a file waits for a moment, gives way, and is tried again.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, LockNotAvailable

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.connection_setup import (
    completed,
    connection_class,
    cut_after,
    encoding_fault,
)
from rttc_graph.integrations.postgres.psycopg_errors import translated

__all__ = ("Migration", "check_extension", "migrate", "read_migrations")

_LOCK = 0x72747463  # "rttc"; advisory locks belong to one database
_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")
_CONCURRENT_INDEX = re.compile(r"create index concurrently if not exists (\w+)")
_PGVECTOR = (0, 8, 0)
"""The first version with `hnsw.iterative_scan`, without which a filter loses rows silently."""
_SILENCE_SECONDS = 60.0
"""Longest wait for the answer to a small statement."""
_FILE_SECONDS = 6 * 3600.0
"""Longest wait for one file, which may build an index of a large table."""
_LOCK_SECONDS = 1.0
"""Longest wait for a table's lock in one try: a fifth of what a run's look-up waits at most, since
look-ups wait behind it."""
_PAUSE_SECONDS = 1.0
"""Time between two tries, in which those that waited behind the last one go on."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    text: str

    @property
    def number(self) -> int:
        """The number that its name starts with, from 1 without gaps."""
        return int(self.name[:4])

    @property
    def in_transaction(self) -> bool:
        """Whether it runs in a transaction; a concurrent index build cannot."""
        return "-- no-transaction" not in self.text.splitlines()

    @property
    def waits_in_nobodys_way(self) -> bool:
        """Whether it may wait for a lock for long: a concurrent build holds up nobody meanwhile."""
        return _CONCURRENT_INDEX.search(self.text) is not None

    @property
    def checksum(self) -> str:
        """Digest of the text, the same for all forms of line ends."""
        return hashlib.sha256("\n".join(self.text.splitlines()).encode()).hexdigest()


def read_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Read the files of a folder, by default this program's, in order.

    Raises:
        ConfigurationError: The numbers have a gap or a double.
    """
    folder = folder or importlib.resources.files("rttc_graph.migrations")
    files = [path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name)]
    migrations = [Migration(path.name, path.read_text(encoding="utf-8")) for path in files]
    migrations.sort(key=lambda migration: migration.name)
    numbers = [migration.number for migration in migrations]
    if numbers != list(range(1, len(migrations) + 1)):
        raise ConfigurationError(f"migrations must be numbered from 1 without gaps: {numbers!r}")
    return migrations


def migrate(
    dsn: str,
    *,
    migrations: Sequence[Migration] | None = None,
    timeout_seconds: float = 300.0,
    private: bool = False,
) -> list[str]:
    """Apply what is missing and return the names of the files that were applied.

    Args:
        dsn: The database; not through a pooler in transaction mode, which cannot hold a lock.
        migrations: All files of the program, for tests.
        timeout_seconds: Longest wait for another process that migrates, and for the tables of a
            file to be free for a moment.
        private: The server is ours alone, so libpq's environment is not read.

    Raises:
        ConfigurationError: The address cannot be read, the database is not in UTF-8, pgvector is
            missing, old or out of the search path, a file was edited after it was applied, or the
            database is newer than this program.
        BackendError: A statement failed, or a table was in use for too long; the files before it
            stay applied.
    """
    wanted = read_migrations() if migrations is None else migrations
    kind = connection_class(private=private)
    with (
        translated("migrate the database"),
        kind.connect(completed(dsn), autocommit=True, prepare_threshold=None) as connection,
    ):
        with cut_after(connection, _SILENCE_SECONDS):
            _prepare(connection)
        with _only_one(connection, timeout_seconds):
            with cut_after(connection, _SILENCE_SECONDS):
                check_extension(connection)
                applied = _applied(connection)
            _check_history(wanted, applied)
            missing = [m for m in wanted if m.name not in applied]
            for migration in missing:
                with translated(f"apply {migration.name!r}"):
                    _apply_between_others(connection, migration, timeout_seconds)
    return [migration.name for migration in missing]


def _prepare(connection: Connection[Any]) -> None:
    """Refuse a database of another encoding, and set what holds for the migrations."""
    fault = encoding_fault(connection)
    if fault is not None:
        raise ConfigurationError(fault)
    _let_wait(connection, _LOCK_SECONDS)
    connection.execute("select set_config('client_min_messages', 'warning', false)")


def _let_wait(connection: Connection[Any], seconds: float) -> None:
    """Set how long a statement may wait for a lock."""
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{seconds * 1000:.0f}",))


def check_extension(connection: Connection[Any]) -> None:
    """Create pgvector's extension if it is missing and this user may.

    Raises:
        ConfigurationError: It is not installed, too old, in a schema that is not searched, or an
            administrator has to create it.
    """
    versions = "select installed_version, default_version from pg_available_extensions"
    row = connection.execute(f"{versions} where name = 'vector'").fetchone()
    needed = ".".join(str(part) for part in _PGVECTOR)
    if row is None:
        raise ConfigurationError(
            f"the database server has no pgvector; an administrator has to install {needed} or "
            "later on it"
        )
    installed, available = row
    if _version(installed or available) < _PGVECTOR:
        raise ConfigurationError(
            f"pgvector {installed or available} is too old, {needed} or later is needed; an "
            "administrator has to install it, then run 'alter extension vector update' in this "
            "database"
        )
    if installed is None:
        _create_extension(connection)
    _check_search_path(connection)


def _check_search_path(connection: Connection[Any]) -> None:
    if _value(connection, "select to_regtype('halfvec')") is not None:
        return
    schema = _value(
        connection,
        "select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace "
        "where e.extname = 'vector'",
    )
    path = _value(connection, "select current_setting('search_path')")
    wanted = ",".join(_value(connection, "select current_schemas(false)") or ["public"])
    raise ConfigurationError(
        f"pgvector is in the schema {schema!r}, which the search path {path!r} lacks: add "
        f"options=-csearch_path={wanted},{schema} to the DSN (in an address: "
        f"?options=-csearch_path%3D{wanted},{schema}), or have an administrator run 'alter "
        f"database {connection.info.dbname} set search_path = {wanted}, {schema}'"
    )


def _create_extension(connection: Connection[Any]) -> None:
    try:
        connection.execute("create extension if not exists vector")
    except InsufficientPrivilege as exc:
        raise ConfigurationError(
            f"user {connection.info.user!r} may not create pgvector's extension; an administrator "
            f"has to run 'create extension vector' in database {connection.info.dbname!r}"
        ) from exc


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


@contextmanager
def _only_one(connection: Connection[Any], timeout_seconds: float) -> Generator[None]:
    end = time.monotonic() + timeout_seconds
    while not _has_lock(connection):
        if time.monotonic() > end:
            raise BackendError(
                f"another process has been migrating this database for {timeout_seconds:.0f} s",
                retryable=True,
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        if not connection.closed:
            with cut_after(connection, _SILENCE_SECONDS):
                connection.execute("select pg_advisory_unlock(%s)", (_LOCK,))


def _has_lock(connection: Connection[Any]) -> bool:
    with cut_after(connection, _SILENCE_SECONDS):
        return bool(_value(connection, "select pg_try_advisory_lock(%s)", _LOCK))


def _applied(connection: Connection[Any]) -> dict[str, str]:
    """Return the checksums of what was applied, by name."""
    connection.execute(
        "create table if not exists rttc_migration ("
        "name text primary key, sha256 text not null, "
        "applied_at timestamptz not null default now())"
    )
    return dict(connection.execute("select name, sha256 from rttc_migration").fetchall())


def _check_history(wanted: Sequence[Migration], applied: Mapping[str, str]) -> None:
    known = {migration.name: migration.checksum for migration in wanted}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise ConfigurationError(
            f"the database is newer than this program: it has {newer[-1]!r}; upgrade rttc-graph"
        )
    for name, checksum in applied.items():
        if known[name] != checksum:
            raise ConfigurationError(
                f"{name!r} was edited after it was applied; put it back and write a new migration"
            )


def _apply_between_others(
    connection: Connection[Any], migration: Migration, timeout_seconds: float
) -> None:
    """Apply a file while others use its tables: try, give way, and try again."""
    with cut_after(connection, _SILENCE_SECONDS):
        _let_wait(connection, timeout_seconds if migration.waits_in_nobodys_way else _LOCK_SECONDS)
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            with cut_after(connection, _FILE_SECONDS):
                _apply(connection, migration)
        except (LockNotAvailable, DeadlockDetected) as exc:
            if time.monotonic() + _PAUSE_SECONDS > end:
                raise BackendError(
                    f"could not apply {migration.name!r}: for {timeout_seconds:.0f} s a table was "
                    "in use by a transaction that does not end, such as a dump or a report: wait "
                    "for it or end it (pg_stat_activity has it), then run `rttc db migrate` again",
                    retryable=True,
                ) from exc
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _apply(connection: Connection[Any], migration: Migration) -> None:
    if migration.in_transaction:
        with connection.transaction():
            connection.execute(migration.text.encode())
            _record(connection, migration)
        return
    for index in _CONCURRENT_INDEX.findall(migration.text):
        _drop_invalid(connection, index)
    connection.execute(migration.text.encode())
    _record(connection, migration)


def _drop_invalid(connection: Connection[Any], index: str) -> None:
    """Drop what an interrupted concurrent build left, which `if not exists` would take for done."""
    broken = "select 1 from pg_index where indexrelid = to_regclass(%s) and not indisvalid"
    if _value(connection, broken, index):
        drop = sql.SQL("drop index concurrently if exists {}")
        connection.execute(drop.format(sql.Identifier(index)))


def _record(connection: Connection[Any], migration: Migration) -> None:
    connection.execute(
        "insert into rttc_migration (name, sha256) values (%s, %s)",
        (migration.name, migration.checksum),
    )


def _value(connection: Connection[Any], query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None
