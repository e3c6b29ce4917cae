"""What may stand in an address or in libpq's environment, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_fixtures import open_folder, remove_tree
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rttc_graph.cli.app import main
from rttc_graph.errors import BackendError, ConfigurationError, KnowledgeBaseError
from rttc_graph.integrations.postgres.connection_setup import completed, without_secrets
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.migrate import migrate

SECRET = "hunter2"


@pytest.fixture
def open_home() -> Iterator[Path]:
    folder = open_folder()
    yield folder
    EmbeddedPostgres(folder / "postgres").stop(force=True)
    remove_tree(folder)


UNREADABLE = [
    pytest.param("postgresql://rttc:hunter2%sesame@127.0.0.1:1/db", id="percent"),
    pytest.param("host=127.0.0.1 port=1 password=hunter2 sesame", id="space"),
    pytest.param("postgresql://rttc:hunter2/sesame@127.0.0.1:1/db", id="slash"),
    pytest.param("postgresql://rttc:22/hunter2@127.0.0.1:1/db", id="slash-after-digits"),
    pytest.param("postgresql://rttc:sesame@hunter2@127.0.0.1:1/db", id="at"),
    pytest.param("mysql://rttc:hunter2@127.0.0.1:1/db", id="other-scheme"),
    pytest.param("postgresql://rttc:hunter2@127.0.0.1:1/db?nonsense=hunter2", id="option"),
]


@pytest.mark.parametrize("address", UNREADABLE)
@pytest.mark.parametrize("command", [["kb", "stats"], ["db", "migrate"], ["status"], ["db", "up"]])
def test_no_command_repeats_a_password(
    address: str,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = main(["--home", str(tmp_path), "--database-url", address, "--debug", *command])
    printed = capsys.readouterr()
    assert code == (0 if command == ["status"] else 2)
    assert "cannot be read" in printed.out + printed.err
    for text in (printed.out, printed.err, caplog.text):
        assert SECRET not in text
        assert "sesame" not in text


@pytest.mark.parametrize("address", UNREADABLE)
def test_no_error_carries_the_address_along(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        completed(address)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_a_driver_in_an_address_is_left_out(driver: str) -> None:
    read = conninfo_to_dict(completed(f"postgresql+{driver}://rttc:pass@db.example:5999/name"))
    assert (read["user"], read["host"], read["port"]) == ("rttc", "db.example", "5999")


def test_an_address_for_people_has_no_secrets() -> None:
    shown = without_secrets("host=db password=hunter2 sslpassword=hunter2 user=rttc")
    assert "hunter2" not in shown
    assert "user=rttc" in shown


VARIABLES = [
    {"PGSERVICE": "nowhere"},
    {"PGSERVICEFILE": "/nowhere", "PGSERVICE": "nowhere"},
    {"PGHOSTADDR": "127.0.0.1"},
    {"PGHOST": "nowhere.example", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "nothing"},
    {"PGOPTIONS": "-csearch_path=nowhere"},
    {"PGREQUIREAUTH": "scram-sha-256"},
    {"PGTARGETSESSIONATTRS": "read-only"},
    {"PGCHANNELBINDING": "require"},
    {"PGCLIENTENCODING": "LATIN1"},
    {"PGTZ": "Mars"},
    {"PGDATESTYLE": "nonsense"},
    {"PGCONNECT_TIMEOUT": "abc"},
    {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere"},
    {"PGSSLNEGOTIATION": "direct"},
    {"PGGSSENCMODE": "require"},
    {"PGPASSFILE": "/nowhere", "PGPASSWORD": "wrong"},
    {"PGMINPROTOCOLVERSION": "nonsense"},
    {"PGLOADBALANCEHOSTS": "nonsense"},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=lambda found: next(iter(found)))
def test_a_server_of_our_own_does_not_read_libpqs_environment(
    postgres_server: EmbeddedPostgres,
    postgres_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def emoji(session: DatabaseSession) -> str:
        row = session.connection.execute("select %s", ("🙂",)).fetchone()
        assert row is not None
        return str(row[0])

    assert postgres_server.status().running
    assert migrate(postgres_dsn, private=True) == []
    database = Database(postgres_dsn, private=True)
    try:
        assert asyncio.run(database.execute_work("look", emoji, error=BackendError)) == "🙂"
        with database.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    finally:
        database.close()
    assert {name: os.environ[name] for name in variables} == variables


def test_the_embedded_server_is_started_beside_libpqs_environment(
    monkeypatch: pytest.MonkeyPatch, open_home: Path
) -> None:
    monkeypatch.setenv("PGSERVICE", "nowhere")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGOPTIONS", "-csearch_path=nowhere")
    monkeypatch.delenv("RTTC_DATABASE_URL", raising=False)
    assert main(["--home", str(open_home), "kb", "stats", "--json"]) == 0
    assert main(["--home", str(open_home), "db", "migrate", "--json"]) == 0


def test_libpqs_environment_fills_up_an_address_of_the_users(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(postgres_dsn)
    monkeypatch.setenv("PGHOST", str(parts["host"]))
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")  # texts are UTF-8 whatever it says
    database = Database(f"dbname={parts['dbname']} user=postgres")
    try:
        asyncio.run(
            database.execute_work(
                "look", lambda s: s.connection.execute("select '🙂'"), error=BackendError
            )
        )
    finally:
        database.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(
    postgres_server: EmbeddedPostgres, encoding: str
) -> None:
    name = f"test_{encoding.lower()}_{os.getpid()}"
    create = sql.SQL(
        "create database {} encoding {} locale_provider libc locale 'C' template template0"
    ).format(sql.Identifier(name), sql.Literal(encoding))
    with psycopg.connect(postgres_server.dsn, autocommit=True) as admin:
        admin.execute(create)
        try:
            dsn = make_conninfo(postgres_server.dsn, dbname=name)
            with pytest.raises(ConfigurationError, match=rf"{name}.*{encoding}.*encoding 'UTF8'"):
                migrate(dsn)
            database = Database(dsn)
            with pytest.raises(KnowledgeBaseError, match=encoding) as caught:
                asyncio.run(
                    database.execute_work("look", lambda s: s.step(), error=KnowledgeBaseError)
                )
            assert not caught.value.retryable
            database.close()
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_pgvector_outside_of_the_search_path_is_named(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create schema extensions")
        connection.execute("create extension vector schema extensions")
    with pytest.raises(ConfigurationError, match=r"'extensions'.*options=-csearch_path=public,ext"):
        migrate(empty_dsn)
    assert migrate(make_conninfo(empty_dsn, options="-csearch_path=public,extensions"))


def _as_a_pooler(connection: psycopg.Connection[Any]) -> None:
    """Lose the prepared statements, as when the next transaction gets another session."""
    connection.pgconn.exec_(b"deallocate all")


def _as_another_client(connection: psycopg.Connection[Any]) -> None:
    """Have statements under the same names, as another client's session behind a pooler."""
    connection.pgconn.exec_(b"deallocate all")
    for number in range(8):
        connection.pgconn.exec_(f"prepare _pg3_{number} (text) as select 'theirs', $1".encode())


@pytest.mark.parametrize("disturb", [_as_a_pooler, _as_another_client])
async def test_a_pooler_that_loses_prepared_statements_ends_their_use(
    database: Database, disturb: Callable[[psycopg.Connection[Any]], None]
) -> None:
    def work(session: DatabaseSession) -> int:
        for _ in range(4):
            assert session.row("server_answers") is not None
        disturb(session.connection)
        for number in range(4):
            found = session.connection.execute("select %s + 1", (number,)).fetchone()
            assert found == (number + 1,)
        return len(session.rows("server_answers"))

    assert await database.execute_work("look", work, error=BackendError) == 1
