"""What makes samples and queries the same, and the limits of the names they are kept under."""

from __future__ import annotations

import hashlib
import json

from rttc_graph.errors import ConfigurationError

__all__ = ("MAX_NAME_CHARACTERS", "checked_name", "query_digest", "sample_id")

MAX_NAME_CHARACTERS = 200
"""Of a domain, a tenant or an adapter's key; 800 bytes at most, well within an index's 2,704."""


_as_json = json.JSONEncoder().encode
"""Of one string at a time: a list takes the encoder seven times as long."""


def sample_id(question: str, answer: str, domain: str) -> str:
    """Return the digest that a sample is known by, 64 hexadecimal characters."""
    listed = f"[{_as_json(question)}, {_as_json(answer)}, {_as_json(domain)}]"
    return hashlib.sha256(listed.encode()).hexdigest()


def query_digest(query: str) -> bytes:
    """Return the digest that a remembered query is known by, 32 bytes."""
    return hashlib.sha256(_as_json(query).encode()).digest()


def checked_name(kind: str, name: str) -> str:
    """Return the name if it can be kept.

    Args:
        kind: What it names, for the message.
        name: 1 to 200 characters without NUL and without lone surrogates.

    Raises:
        ConfigurationError: It cannot.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise ConfigurationError(
            f"{kind}={shown!r} has {len(name)} characters, it must have 1 to {MAX_NAME_CHARACTERS}"
        )
    if "\0" in name or _is_unencodable(name):
        raise ConfigurationError(
            f"{kind}={name!r} holds a NUL character or half a surrogate pair; remove it"
        )
    return name


def _is_unencodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
