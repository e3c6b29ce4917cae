"""Errors of files that name the file: the system says it on opening one, not on writing to it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("naming_file", "write_file")


@contextmanager
def naming_file(path: Path) -> Generator[None]:
    """Give errors of the system the name of a file, where they have none."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None and exc.errno is not None:
            exc.filename = str(path)
        raise


def write_file(path: Path, text: str) -> None:
    """Write a file of text in UTF-8.

    Raises:
        OSError: It cannot be written; with its name.
    """
    with naming_file(path):
        path.write_text(text, encoding="utf-8")
