"""New connections: what libpq is told, what it must not read, and a way out when nobody answers.

An address may hold a password, so no error of ours repeats an address that libpq cannot read.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.postgres.psycopg_errors import DRIVER_ERRORS

__all__ = (
    "PrivateConnection",
    "completed",
    "connection_class",
    "cut",
    "cut_after",
    "encoding_fault",
    "without_environment",
    "without_secrets",
)

_DEFAULTS: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "application_name": "rttc-graph",
    "client_encoding": "UTF8",  # not PGCLIENTENCODING's: texts may hold any character
}
"""Connection options unless the address sets them: a dead peer is noticed within a minute."""

_SECRETS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)

_DRIVER = re.compile(r"^\s*postgres(?:ql)?\+\w+://")
"""Driver name that SQLAlchemy puts into an address."""

_URI = re.compile(r"^\s*postgres(?:ql)?://")

_UNREADABLE = (
    "the database's address cannot be read (it is not shown, since it may hold a password): write "
    "postgresql://USER:PASSWORD@HOST:PORT/NAME with '%', '/', '@', ':' and spaces of the password "
    "as %25, %2F, %40, %3A and %20, or \"host=HOST dbname=NAME user=USER password='PASSWORD'\""
)

_environment_lock = threading.RLock()


def completed(address: str, *, connect_timeout_seconds: float = 10.0) -> str:
    """Return what libpq is given for an address: its own values, and ours where it has none.

    Raises:
        ConfigurationError: It cannot be read; the message does not repeat it.
    """
    known = _read(address)
    defaults = {"connect_timeout": max(2, round(connect_timeout_seconds)), **_DEFAULTS}
    return make_conninfo("", **{**defaults, **known})  # libpq knows no shorter time-out than 2 s


def without_secrets(address: str) -> str:
    """Return an address for people, with stars in the place of passwords and keys.

    Raises:
        ConfigurationError: It cannot be read; the message does not repeat it.
    """
    shown = {name: "***" if name in _SECRETS else value for name, value in _read(address).items()}
    return make_conninfo("", **shown)


def _read(address: str) -> dict[str, Any]:
    address = _DRIVER.sub("postgresql://", address)
    try:
        parts = conninfo_to_dict(address)
    except psycopg.Error:
        parts = None
    if parts is None or (_URI.match(address) and _is_torn(parts)):
        raise ConfigurationError(_UNREADABLE)  # outside of the handler: no cause that repeats it
    return parts


def _is_torn(parts: dict[str, Any]) -> bool:
    """Tell whether an unescaped character of the password has cut a URI in the wrong place."""
    host, port = str(parts.get("host") or ""), str(parts.get("port") or "")
    name, has_user = str(parts.get("dbname") or ""), bool(parts.get("user"))
    return "@" in host or bool(re.search(r"[^\d,]", port)) or ("@" in name and not has_user)


class PrivateConnection(Connection[Any]):
    """A connection that libpq's environment has no say in, for a server that is ours alone."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect by the address alone."""
        with without_environment():
            return super().connect(conninfo, **kwargs)


def connection_class(*, private: bool) -> type[Connection[Any]]:
    """Return the class that connects: by the address alone, or by libpq's environment too."""
    return PrivateConnection if private else Connection


@contextmanager
def without_environment() -> Generator[None]:
    """Hide libpq's variables (`PGSERVICE`, `PGHOSTADDR`, `PGTZ`, …) while the block runs.

    No address can overrule `PGSERVICE` or a bad `PGTZ`. The process loses its variables for the
    milliseconds of a connection over a local socket, and only where it has some.
    """
    if not _libpq_variables():
        yield
        return
    with _environment_lock:
        hidden = {name: os.environ.pop(name) for name in _libpq_variables()}
        try:
            yield
        finally:
            for name, value in hidden.items():
                os.environ.setdefault(name, value)


def _libpq_variables() -> list[str]:
    return [name for name in os.environ.copy() if name.startswith("PG")]


def encoding_fault(connection: Connection[Any]) -> str | None:
    """Return why a database's encoding cannot be used; `None` if it is UTF-8."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding in (None, "UTF8"):
        return None
    return (
        f"database {connection.info.dbname!r} has the encoding {encoding!r}, which cannot store "
        "every text: use a database made with \"create database NAME encoding 'UTF8' template "
        'template0"'
    )


def cut(connection: Connection[Any]) -> None:
    """Shut a connection's socket, which ends whatever waits on it; for other threads than its own.

    The thread that waits gets an error and closes the connection: it is not ours to close here.
    """
    with contextlib.suppress(OSError, DRIVER_ERRORS):  # closed meanwhile
        own = socket.socket(fileno=os.dup(connection.fileno()))
        with own:
            own.shutdown(socket.SHUT_RDWR)


@contextmanager
def cut_after(connection: Connection[Any], seconds: float) -> Generator[None]:
    """Cut the connection if the block takes longer; for what is done rarely."""
    timer = threading.Timer(seconds, cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
