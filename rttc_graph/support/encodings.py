"""Text files of any program: the encoding is told by the first bytes, UTF-8 where they say none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

_HEAD_BYTES = 4
"""Bytes that tell UTF-8, UTF-16 and UTF-32 apart (RFC 4627), with a byte order mark or without:
JSON, a CSV header and a settings file all begin with two ASCII characters."""


def detect_encoding(head: bytes) -> str:
    """Return the codec of a text that begins with `head`; it leaves out a byte order mark."""
    return json.detect_encoding(head[:_HEAD_BYTES])


def open_text(path: Path, *, newline: str | None = None) -> TextIO:
    """Open a text file; bytes that are not UTF-8 become lone surrogates, U+DC80 to U+DCFF.

    Reading raises UnicodeDecodeError where a file is not the UTF-16 or UTF-32 it began as.

    Raises:
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        encoding = detect_encoding(file.read(_HEAD_BYTES))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return path.open(encoding=encoding, errors=errors, newline=newline)


def undecodable(text: str) -> str | None:
    """Return what is wrong with a text that `open_text` read, `None` if it is whole Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        code = ord(text[exc.start])
        if 0xDC80 <= code <= 0xDCFF:
            return (
                f"not valid UTF-8: byte 0x{code - 0xDC00:02X} at character {exc.start + 1}; "
                "save the file as UTF-8"
            )
        return f"not valid UTF-8: half of a surrogate pair at character {exc.start + 1}"
    return None
