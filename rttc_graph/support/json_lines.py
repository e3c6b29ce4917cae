"""Files of JSON that a killed process leaves whole: lines, or one object; every call blocks."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.encodings import detect_encoding
from rttc_graph.support.named_files import naming_file

T = TypeVar("T")


def load_lines(
    path: Path, parse: Callable[[dict[str, Any]], T], *, what: str, way_out: str
) -> list[T]:
    """Return the lines of a file in order; none where there is no file.

    A last line that a kill cut short is removed from the file.

    Args:
        path: The file.
        parse: Returns a line's object as what it is; raises pydantic's `ValidationError` if it is
            something else.
        what: What the file should be, for the error.
        way_out: What to do about another file, for the error.

    Raises:
        ConfigurationError: The file holds something else; names the first such line and why.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    encoding = detect_encoding(content)
    if not encoding.startswith("utf-8"):
        raise ConfigurationError(
            f"{str(path)!r} is not a file of {what}: it is written as {encoding}; {way_out}"
        )
    whole = content[: content.rfind(b"\n") + 1]
    tail = content[len(whole) :]
    lines = whole.split(b"\n")[:-1]
    # A line that was cut short is no JSON; one whose line end an editor took is kept.
    is_torn = bool(tail) and _fields(tail) is None and bool(lines or tail.startswith(b'{"'))
    if tail and not is_torn:
        lines.append(tail)
    found: list[T] = []
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        try:
            if fields is None:
                raise _NotAnObjectError
            found.append(parse(fields))
        except (_NotAnObjectError, ValidationError) as exc:
            raise ConfigurationError(
                f"{str(path)!r} is not a file of {what} (line {number}): {_reason(exc)}; {way_out}"
            ) from exc
    if is_torn:
        os.truncate(path, len(whole))
    elif tail:
        add_lines(path, [])
    return found


def add_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines; once this returns, a kill of the process does not lose them.

    Raises:
        OSError: There is no room, say; with the file's name. The lines before are kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with naming_file(path), path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        start = "" if file.read(1) in (b"", b"\n") else "\n"
        rest = (start + text).encode("utf-8", "surrogatepass")
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:  # a full disk: half a line would spoil what is added behind it
            file.truncate(end)
            raise


def keep_told(path: Path, found: Mapping[str, Any]) -> None:
    """Keep an object for later processes to show, in place of what was there.

    A convenience: what cannot be written is as if nobody had told it.
    """
    mine = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps(dict(found)), encoding="utf-8")
        mine.replace(path)


def last_told(path: Path) -> dict[str, Any] | None:
    """Return the object that was last kept; `None` if there is none that can be read."""
    try:
        return _fields(path.read_bytes())
    except OSError:
        return None


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


class _NotAnObjectError(Exception):
    """A line is no JSON object."""


def _reason(exc: Exception) -> str:
    """Return the first problem of a line in words."""
    if not isinstance(exc, ValidationError):
        return "it is no JSON object"
    problem = exc.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
