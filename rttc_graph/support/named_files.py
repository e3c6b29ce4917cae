"""Errors of files that name the file: the system says it on opening one, not on writing to it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rttc_graph.errors import ConfigurationError

__all__ = ("check_file", "naming_file", "write_file")


def check_file(path: Path) -> None:
    """Do nothing if a path is a file that can be read.

    Raises:
        ConfigurationError: It is a folder, or not there.
    """
    if path.is_dir():
        raise ConfigurationError(f"{str(path)!r} is a folder: name the files in it")
    if not path.is_file():
        raise ConfigurationError(f"no such file: {str(path)!r}")


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
