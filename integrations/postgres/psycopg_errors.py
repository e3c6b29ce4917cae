"""The one place that knows psycopg's errors: they become ours, with what was being done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg import errors as sqlstate

from rttc_graph.errors import BackendError

__all__ = (
    "DRIVER_ERRORS",
    "LOST",
    "UNPREPARED",
    "UnreachableDatabase",
    "UnusableDatabase",
    "translated",
)

DRIVER_ERRORS = psycopg.Error
"""Whatever the driver raises."""

LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""Errors of a lost connection, from the server or from the driver if it notices first."""

UNPREPARED = (
    sqlstate.InvalidSqlStatementName,
    sqlstate.DuplicatePreparedStatement,
    sqlstate.ProtocolViolation,
)
"""Errors of prepared statements behind a pooler that gives each transaction another session: the
statement is missing, or another client's has its name."""

_POOLER = (
    "a pooler in transaction mode is in between: name it in database_pooler_url and the server in "
    "database_url, give your own pool with "
    'ConnectionPool(dsn, kwargs={"prepare_threshold": None}), or use PgBouncer 1.22 or later with '
    "max_prepared_statements above 0"
)


class UnusableDatabase(psycopg.NotSupportedError):
    """A database with a wrong encoding or version, or a server that does not start."""


class UnreachableDatabase(psycopg.OperationalError):
    """A server that did not come up this time."""


_HINTS: dict[type[psycopg.Error], str] = {
    sqlstate.UndefinedTable: "run `rttc db migrate`",
    sqlstate.UndefinedColumn: "run `rttc db migrate`",
    sqlstate.UndefinedObject: "run `rttc db migrate`",
    sqlstate.InsufficientPrivilege: "ask an administrator of the database for the privilege",
    sqlstate.QueryCanceled: "it took longer than statement_timeout_seconds",
    sqlstate.DiskFull: "the server's disk is full",
    sqlstate.ReadOnlySqlTransaction: "give the DSN of the primary server",
    **dict.fromkeys(UNPREPARED, _POOLER),
}

_HINTS_BY_WORDS = {
    "vector type not found": "run `rttc db migrate`",
    "unsupported startup parameter": "name it in PgBouncer's ignore_startup_parameters",
}
"""Hints for errors without a class of their own."""

_LASTING = (sqlstate.DiskFull,)
"""Operational errors that the next try will meet again, unlike lost connections and time-outs."""


@contextmanager
def translated(action: str, error: type[BackendError] = BackendError) -> Generator[None]:
    """Re-raise the driver's errors as `error`.

    Args:
        action: What is being done, after "could not".
        error: Class of the protocol that is being served.
    """
    try:
        yield
    except psycopg.Error as exc:
        passing = isinstance(exc, LOST) and not isinstance(exc, _LASTING)
        raise error(f"could not {action}: {_reason(exc)}", retryable=passing) from exc


def _reason(exc: psycopg.Error) -> str:
    """Return the server's words on one line, and what to do about them where that is known."""
    words = " ".join((exc.diag.message_primary or str(exc) or type(exc).__name__).split())
    hint = next((hint for kind, hint in _HINTS.items() if isinstance(exc, kind)), None)
    if hint is None:
        hint = next((hint for part, hint in _HINTS_BY_WORDS.items() if part in words), None)
    return f"{words}; {hint}" if hint else words
