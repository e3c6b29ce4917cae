"""Where an embedded server keeps its data and its socket, and who owns them.

PostgreSQL refuses to run as root, and the user that root drops to may not enter root's home. So
as root the data may lie outside of `home`; the place is written into `home`, where every later
command reads it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.embedded_server.programs import Account

if sys.platform != "win32":
    import pwd

__all__ = ("DataFolder", "explained", "locate_data")

_OUTSIDE = (Path("/var/lib/rttc-graph"), Path("/var/tmp/rttc-graph"))
"""Folders for root's data when the server's user may not read `home`; both survive a reboot."""

_LONGEST_SOCKET_FOLDER = 80
"""Bytes; a socket's whole path may have 103 (macOS) or 107 (Linux)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """The folders of one embedded server."""

    home: Path
    store: Path
    """Holds the data folder, and programs copied for a user who may not run the installed ones."""
    account: Account

    @property
    def data(self) -> Path:
        """The server's data directory, mode 0700."""
        return self.store / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.data / "server.log"

    @property
    def sockets(self) -> Path:
        """The folder of the socket: the data folder, or another where a socket cannot be there."""
        name = os.fsencode(self.data)
        if len(name) <= _LONGEST_SOCKET_FOLDER and b"," not in name:  # a comma separates folders
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        # Not tempfile's folder: processes with another TMPDIR would not find the server.
        return Path("/tmp") / f"rttc-graph-{self.account.uid}-{digest}"

    def prepare(self) -> None:
        """Create the folder of the socket.

        Raises:
            ConfigurationError: It is there and belongs to somebody else, or others may enter it.
        """
        if self.sockets == self.data:
            return
        if not self.sockets.exists():
            new_folder = Path(tempfile.mkdtemp(prefix=".rttc-graph-", dir=self.sockets.parent))
            self.give(new_folder)
            new_folder.rename(self.sockets)
        status = self.sockets.lstat()
        if status.st_uid != self.account.uid or status.st_mode & 0o077:
            raise ConfigurationError(
                f"{str(self.sockets)!r} must belong to {self.account.name!r} with mode 0700; "
                "remove it or choose a data folder with a shorter path"
            )

    def clean_up(self) -> None:
        """Remove the folder of the socket, if it is an empty one of its own."""
        if self.sockets != self.data:
            with suppress(OSError):  # not empty, or not there
                self.sockets.rmdir()

    def give(self, folder: Path) -> None:
        """Make the server's user the owner of a new folder."""
        if self.account.uid != os.geteuid():
            os.chown(folder, self.account.uid, self.account.gid)


@contextmanager
def explained(home: Path) -> Generator[None]:
    """Re-raise what the operating system says about the folders of a server.

    Raises:
        BackendError: The disk is full.
        ConfigurationError: The folder is read-only, or cannot be used for another reason.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackendError(
                f"the disk of the data folder {str(home)!r} is full ({exc}): make room on it"
            ) from exc
        way_out = (
            "make it writable, choose another with --home or RTTC_HOME, or give the DSN of a server"
        )
        raise ConfigurationError(
            f"the data folder {str(home)!r} cannot be used: {exc}; {way_out}"
        ) from exc


def locate_data(home: Path) -> DataFolder:
    """Find, or choose and record, where the data of `home` lies.

    Raises:
        BackendError: The disk is full.
        ConfigurationError: `home` cannot be created, or belongs to another user.
    """
    home = home.expanduser().absolute()
    with explained(home):
        home.mkdir(parents=True, exist_ok=True)
        home = _checked(home.resolve())
        store = _recorded(home) or home
        return DataFolder(home=home, store=store, account=_account_for(store / "data"))


def _checked(home: Path) -> Path:
    """Refuse what `pg_ctl` cannot pass through the shell that it starts the server with."""
    odd = sorted(set(str(home)) & set('"$`\\\n'))
    if odd:
        raise ConfigurationError(
            f"the data folder {str(home)!r} must not have {odd[0]!r} in its path; choose another"
        )
    return home


def _recorded(home: Path) -> Path | None:
    record = home / "data-folder"
    if record.exists():
        store = Path(record.read_text().strip())
        store.mkdir(mode=0o755, parents=True, exist_ok=True)
        return store
    if os.geteuid() != 0 or (home / "data").exists() or Account.nobody().may_enter(home):
        return None
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    store = _first_usable(digest)
    record.write_text(f"{store}\n")
    return store


def _first_usable(name: str) -> Path:
    """Create a folder for root outside of any home, which others may pass but not change."""
    problems: list[str] = []
    for parent in _OUTSIDE:
        try:
            for folder in (parent, parent / name):
                folder.mkdir(mode=0o755, exist_ok=True)
                if folder.lstat().st_uid != 0:
                    raise PermissionError(f"{str(folder)!r} does not belong to root")
                folder.chmod(0o755)
        except OSError as exc:
            problems.append(str(exc))
        else:
            if Account.nobody().may_enter(parent / name):
                return parent / name
            problems.append(f"{str(parent)!r} is closed to the server's user")
    raise ConfigurationError(
        "postgres does not run as root, and its user may not enter the data folder; choose one "
        f"that others may enter, or give the DSN of a server ({'; '.join(problems)})"
    )


def _account_for(data: Path) -> Account:
    if os.geteuid() != 0:
        return Account.current()
    if not data.exists():
        return Account.nobody()
    owner = data.stat()
    if owner.st_uid == 0:
        raise ConfigurationError(
            f"{str(data)!r} belongs to root, as which postgres does not run; move it away"
        )
    try:
        name = pwd.getpwuid(owner.st_uid).pw_name
    except KeyError:
        name = str(owner.st_uid)
    return Account(owner.st_uid, owner.st_gid, name)
