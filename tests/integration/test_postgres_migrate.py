"""Migrations are applied once each, whoever runs them and whatever broke the last run."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from asking_children import ask_until_told, asked_by, fill, told_to_end
from knowledge_children import migrate_slowly
from postgres_children import Child
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.migrate import (
    Migration,
    check_extension,
    migrate,
    read_migrations,
)

ONE = Migration("0001_one.sql", "create table one (x integer)")
TWO = Migration("0002_two.sql", "create table two (x integer); insert into two values (1)")
INDEX = Migration(
    "0002_index.sql",
    "-- no-transaction\ncreate index concurrently if not exists one_x on one (x)",
)


def value(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def test_this_programs_files_are_applied_once(empty_dsn: str) -> None:
    names = [migration.name for migration in read_migrations()]
    assert migrate(empty_dsn) == names
    assert migrate(empty_dsn) == []
    assert value(empty_dsn, "select count(*) from rttc_migration") == len(names)


def test_this_programs_files_say_why_when_and_what_they_lock() -> None:
    for migration in read_migrations():
        lines = migration.text.splitlines()
        assert lines[0] == f"-- {migration.name}"
        assert [line.split()[1] for line in lines[1:] if line[:3] == "-- "][:1] == ["Why:"]
        assert any(line.startswith("-- When:") for line in lines)
        assert any(line.startswith("-- Locks:") for line in lines)


def test_all_objects_have_the_prefix(postgres_dsn: str) -> None:
    query = (
        "select string_agg(relname, ' ') from pg_class "
        "where relnamespace = 'public'::regnamespace and relname !~ '^rttc_'"
    )
    assert value(postgres_dsn, query) is None


def test_processes_at_the_same_time_apply_each_file_once(empty_dsn: str) -> None:
    applied: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: applied.append(migrate(empty_dsn, migrations=[ONE, TWO])))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], [], [ONE.name, TWO.name]]
    assert value(empty_dsn, "select count(*) from two") == 1


def test_a_killed_run_leaves_whole_files_and_no_lock(empty_dsn: str) -> None:
    child = Child(migrate_slowly, empty_dsn)
    child.said()
    while not value(
        empty_dsn,
        "select count(*) from pg_stat_activity where query ~ 'slow_table'"
        " and datname = current_database() and pid <> pg_backend_pid()",
    ):
        time.sleep(0.02)
    child.kill()
    first = Migration("0001_first.sql", "create table first_table (x integer)")
    quick = Migration("0002_slow.sql", "create table slow_table (x integer)")
    assert migrate(empty_dsn, migrations=[first, quick], timeout_seconds=30) == [quick.name]


def test_an_edited_file_is_refused(empty_dsn: str) -> None:
    migrate(empty_dsn, migrations=[ONE])
    edited = Migration(ONE.name, ONE.text.replace("integer", "bigint"))
    with pytest.raises(ConfigurationError, match=r"'0001_one.sql' was edited"):
        migrate(empty_dsn, migrations=[edited, TWO])
    assert value(empty_dsn, "select to_regclass('two')") is None


def test_line_ends_are_no_edit(empty_dsn: str) -> None:
    text = "create table one (\n    x integer\n);\n"
    migrate(empty_dsn, migrations=[Migration("0001_one.sql", text)])
    checked_out = Migration("0001_one.sql", text.replace("\n", "\r\n"))
    assert migrate(empty_dsn, migrations=[checked_out]) == []


def test_a_newer_database_is_refused(empty_dsn: str) -> None:
    migrate(empty_dsn, migrations=[ONE, TWO])
    with pytest.raises(ConfigurationError, match=r"'0002_two.sql'; upgrade"):
        migrate(empty_dsn, migrations=[ONE])


def test_a_failing_file_leaves_nothing_of_itself(empty_dsn: str) -> None:
    broken = Migration("0002_two.sql", "create table two (x integer); select 1 / 0")
    with pytest.raises(BackendError, match=r"'0002_two.sql': division by zero"):
        migrate(empty_dsn, migrations=[ONE, broken])
    assert value(empty_dsn, "select to_regclass('two')") is None
    assert migrate(empty_dsn, migrations=[ONE, TWO]) == [TWO.name]


def test_an_invalid_index_of_a_broken_build_is_built_again(empty_dsn: str) -> None:
    migrate(empty_dsn, migrations=[ONE])
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create index one_x on one (x)")
        connection.execute(
            "update pg_index set indisvalid = false where indexrelid = 'one_x'::regclass"
        )
    assert migrate(empty_dsn, migrations=[ONE, INDEX]) == [INDEX.name]
    assert value(empty_dsn, "select indisvalid from pg_index where indexrelid = 'one_x'::regclass")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["0001_a.sql", "0003_b.sql"], id="gap"),
        pytest.param(["0001_a.sql", "0001_b.sql"], id="double"),
        pytest.param(["0002_a.sql"], id="no-first"),
    ],
)
def test_numbers_without_order_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in [*names, "README.md"]:
        (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match="without gaps"):
        read_migrations(tmp_path)


def test_a_user_without_the_right_is_told_what_an_administrator_runs(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("drop role if exists plain_user")
        connection.execute("create role plain_user login")
        connection.execute("grant create on schema public to plain_user")
    as_user = make_conninfo(empty_dsn, user="plain_user")
    with pytest.raises(ConfigurationError, match="'create extension vector' in database 'test_"):
        migrate(as_user)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create extension vector")
    assert migrate(as_user)


class FakeServer:
    """A connection to a server with given versions of pgvector."""

    def __init__(self, row: tuple[str | None, str] | None) -> None:
        self._row = row

    def execute(self, query: str) -> FakeServer:
        assert "pg_available_extensions" in query
        return self

    def fetchone(self) -> tuple[str | None, str] | None:
        return self._row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param(None, "no pgvector.*0.8.0", id="not-on-the-server"),
        pytest.param(("0.7.4", "0.8.6"), "0.7.4 is too old.*alter extension", id="old-in-use"),
        pytest.param((None, "0.5.1"), "0.5.1 is too old", id="old-on-the-server"),
    ],
)
def test_an_unfit_pgvector_is_named(row: tuple[str | None, str] | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_extension(cast("Connection[Any]", FakeServer(row)))


def test_another_migration_is_not_waited_for_for_ever(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (0x72747463,))
        with pytest.raises(BackendError, match="another process") as caught:
            migrate(empty_dsn, timeout_seconds=0.2)
    assert caught.value.retryable


@pytest.fixture
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rttc_graph.integrations.postgres.migrate._LOCK_SECONDS", 0.2)
    monkeypatch.setattr("rttc_graph.integrations.postgres.migrate._PAUSE_SECONDS", 0.2)


@pytest.mark.usefixtures("quick_tries")
def test_asks_go_on_while_the_next_files_wait_for_a_table(postgres_dsn: str) -> None:
    """A server asks, and a report reads for long what the migration wants to change."""
    files = read_migrations()
    tables = ("rttc_run", "rttc_adapter", "rttc_query_state", "rttc_sample", "rttc_domain")
    number = len(files) + 1
    columns = Migration(
        f"{number:04}_columns.sql",
        ";".join(f"alter table {table} add column next integer default 1" for table in tables),
    )
    index = Migration(
        f"{number + 1:04}_index.sql",
        "-- no-transaction\ncreate index concurrently if not exists next_runs on rttc_run (next)",
    )
    applied: list[str] = []
    work = threading.Thread(
        target=lambda: applied.extend(migrate(postgres_dsn, migrations=[*files, columns, index]))
    )
    fill(postgres_dsn, 20)
    server = Child(ask_until_told, postgres_dsn)
    asked_by(server, more=4)
    with psycopg.connect(postgres_dsn) as report:
        report.execute("select count(*) from rttc_domain, rttc_run")
        work.start()
        asked_by(server, more=10)
        assert work.is_alive()
    work.join(30)
    assert applied == [columns.name, index.name]
    asked_by(server, more=4)
    asked = told_to_end(server)

    assert [failed for _, _, failed in asked if failed] == []
    assert {answer for _, answer, _ in asked} == {"ttt"}
    assert max(seconds for seconds, _, _ in asked[1:]) < 2
    assert value(postgres_dsn, "select count(*) from rttc_run where next = 1") == len(asked)


@pytest.mark.usefixtures("quick_tries")
def test_a_table_in_use_for_too_long_is_told(empty_dsn: str) -> None:
    migrate(empty_dsn, migrations=[ONE])
    change = Migration(
        "0002_two.sql", "create table two (x integer); alter table one add y integer"
    )
    with psycopg.connect(empty_dsn) as report:
        report.execute("select from one")
        with pytest.raises(BackendError, match=r"'0002_two.sql': for 1 s .*pg_stat_") as caught:
            migrate(empty_dsn, migrations=[ONE, change], timeout_seconds=1)
    assert caught.value.retryable
    assert value(empty_dsn, "select to_regclass('two')") is None
    assert migrate(empty_dsn, migrations=[ONE, change]) == [change.name]


def test_a_concurrent_build_waits_and_is_not_begun_anew(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rttc_graph.integrations.postgres.migrate._LOCK_SECONDS", 0.05)
    migrate(empty_dsn, migrations=[ONE])
    with psycopg.connect(empty_dsn) as writer:
        writer.execute("insert into one values (1)")
        work = threading.Thread(target=lambda: migrate(empty_dsn, migrations=[ONE, INDEX]))
        work.start()
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while not value(empty_dsn, waiting):
            time.sleep(0.01)
        time.sleep(0.15)
        assert value(empty_dsn, waiting) == 1
    work.join(30)
    assert value(empty_dsn, "select indisvalid from pg_index where indexrelid = 'one_x'::regclass")


def test_indexes_of_tables_that_are_there_are_built_beside_the_work() -> None:
    """From the first file on that large tables may already exist for."""
    for migration in read_migrations()[10:]:
        made = re.findall(r"create table (?:if not exists )?(\w+)", migration.text)
        indexed = re.findall(
            r"create (?:unique )?index (?!concurrently)\w+\s+on (\w+)", migration.text
        )
        assert set(indexed) <= set(made), migration.name


def test_a_server_that_is_not_there_is_an_error_to_retry(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="migrate the database") as caught:
        migrate(make_conninfo(host=str(tmp_path), connect_timeout=2))
    assert caught.value.retryable


def test_small_domains_of_before_move_into_the_shared_partition(empty_dsn: str) -> None:
    """The schema before, with a large domain, small ones and an empty one: nothing is lost."""
    files = read_migrations()
    migrate(empty_dsn, migrations=[m for m in files if m.number < 8])
    rows = {1: 5000, 2: 3, 3: 0, 4: 7}
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("alter table rttc_sample alter column embedding type halfvec(3)")
        for number, count in rows.items():
            for text in (
                "insert into rttc_domain (name) values ('d{number}')",
                "insert into rttc_tenant_domain values ('t', {number}, 1, {count})",
                "create table rttc_sample_{number} (like rttc_sample including all)",
                "alter table rttc_sample attach partition rttc_sample_{number} "
                "for values in ({number})",
                "insert into rttc_sample (domain_id, tenant, id, question, answer, embedding) "
                "select {number}, 't', int4send(n), 'q' || n, 'a' || n, '[1,0,0]' "
                "from generate_series(1, {count}) n",
            ):
                connection.execute(text.format(number=number, count=count).encode())
        everything = (
            "select domain_id, id, question, answer, created_at from rttc_sample order by 1, 2"
        )
        before = connection.execute(everything.encode()).fetchall()

    assert migrate(empty_dsn) == [m.name for m in files if m.number >= 8]

    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute(everything.encode()).fetchall() == before
        lying = "select tableoid::regclass::text, count(*) from rttc_sample group by 1 order by 1"
        found = connection.execute(lying.encode()).fetchall()
    assert found == [("rttc_sample_1", 5000), ("rttc_sample_small", 10)]
    partitions = "select count(*) from pg_inherits where inhparent = 'rttc_sample'::regclass"
    assert value(empty_dsn, partitions) == 2
