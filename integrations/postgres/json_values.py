"""JSON as PostgreSQL can store it: no NUL characters, no half surrogate pairs, no NaN."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from psycopg.types.json import Jsonb

from rttc_graph.errors import ConfigurationError

__all__ = ("checked_jsonb", "checked_text", "cleaned", "cleaned_jsonb")

_REPLACEMENT = "\ufffd"


def checked_text(what: str, text: str) -> str:
    """Return a text that is stored as it is.

    Raises:
        ConfigurationError: PostgreSQL cannot store it.
    """
    fault = _fault(text)
    if fault:
        raise ConfigurationError(f"{what} holds {fault}, which PostgreSQL cannot store; remove it")
    return text


def checked_jsonb(what: str, value: Any) -> Jsonb:
    """Return JSON that is stored as it is.

    Raises:
        ConfigurationError: It is no JSON, or PostgreSQL cannot store it.
    """
    try:
        text = _dumped(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{what} is not JSON: {exc}") from exc
    # An escaped NUL, or a backslash before "u0000": only a look at the strings tells them apart.
    if not text.isascii() or "\\u0000" in text:
        for part in _strings(value):
            checked_text(what, part)
    return Jsonb(value, dumps=lambda _: text)


def cleaned(value: Any) -> Any:
    """Return a copy of what people will read, with what cannot be stored replaced.

    Characters become U+FFFD, numbers that are not finite `None`, unknown objects their text.
    """
    if isinstance(value, str):
        readable = value.replace("\0", _REPLACEMENT)
        return readable.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        mapping = cast("dict[object, object]", value)
        return {cleaned(str(key)): cleaned(item) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in cast("list[object]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else cleaned(str(value))


def cleaned_jsonb(value: Any) -> Jsonb:
    """Return `cleaned(value)` as a parameter."""
    return Jsonb(cleaned(value), dumps=_dumped)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _dumped(value: Any) -> str:
    return _ENCODER.encode(value)


def _fault(text: str) -> str | None:
    if "\0" in text:
        return f"a NUL character at {text.index(chr(0))}"
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return f"a lone surrogate at {exc.start}"
    return None


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        mapping = cast("dict[object, object]", value)
        return [text for pair in mapping.items() for item in pair for text in _strings(item)]
    if isinstance(value, list | tuple):
        return [text for item in cast("list[object]", value) for text in _strings(item)]
    return []
