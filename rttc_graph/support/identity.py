"""What makes samples and queries the same, and the limits of what is kept of them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rttc_graph.errors import ConfigurationError

__all__ = (
    "MAX_NAME_CHARACTERS",
    "MAX_TEXT_CHARACTERS",
    "check_texts",
    "checked_name",
    "clean",
    "known_names",
    "query_digest",
    "sample_id",
)

MAX_NAME_CHARACTERS = 200
"""Longest name of a domain, a tenant or an adapter's key; at most 800 bytes, well within the 2,704
of an index."""

MAX_TEXT_CHARACTERS = 100_000
"""Longest question, answer or metadata (as JSON); well above the context of any model at hand."""

_as_json = json.JSONEncoder().encode
"""Encoder for one string at a time: a list takes it seven times as long."""


def sample_id(question: str, answer: str, domain: str) -> str:
    """Return the digest that a sample is known by, 64 hexadecimal characters."""
    listed = f"[{_as_json(question)}, {_as_json(answer)}, {_as_json(domain)}]"
    return hashlib.sha256(listed.encode()).hexdigest()


def query_digest(query: str) -> bytes:
    """Return the digest that a remembered query is known by, 32 bytes."""
    return hashlib.sha256(_as_json(query).encode()).digest()


def clean(text: str) -> str:
    """Return the text with a question mark for each lone surrogate.

    JSON may carry half of a surrogate pair, which Python keeps in a string but which has no UTF-8
    form, so that tokenizers and HTTP clients fail on it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def check_texts(question: str, answer: str, metadata: Any = None) -> None:
    """Check the size of a sample's texts, which every knowledge base does before it stores one.

    Raises:
        ConfigurationError: Question or answer is blank, or one of the three is longer than
            `MAX_TEXT_CHARACTERS`.
    """
    for kind, text in (("question", question), ("answer", answer)):
        if not text.strip():
            raise ConfigurationError(f"the {kind} of a sample is empty: give one with text in it")
        _check_length(kind, len(text), question)
    if metadata:
        try:
            length = len(json.dumps(metadata, ensure_ascii=False))
        except (TypeError, ValueError, RecursionError) as exc:
            raise ConfigurationError(
                f"metadata of sample {question[:40]!r} is not JSON: {exc}"
            ) from exc
        _check_length("metadata", length, question)


def _check_length(kind: str, length: int, question: str) -> None:
    if length > MAX_TEXT_CHARACTERS:
        raise ConfigurationError(
            f"{kind} of sample {question[:40]!r} has {length:,} characters, at most "
            f"{MAX_TEXT_CHARACTERS:,} are stored: shorten it"
        )


def checked_name(kind: str, name: str) -> str:
    """Return the name if it can be kept.

    Args:
        kind: What it names, for the message.
        name: 1 to 200 characters without NUL and without lone surrogates.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # from JSON
        raise ConfigurationError(f"{kind} must be a string, got {type(name).__name__}")
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise ConfigurationError(
            f"{kind}={shown!r} has {len(name)} characters, it must have 1 to {MAX_NAME_CHARACTERS}"
        )
    if "\0" in name or _is_unencodable(name):
        raise ConfigurationError(
            f"{kind}={name!r} holds a NUL character or a lone surrogate; remove it"
        )
    return name


def _is_unencodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


_SHOWN_NAMES = 20
"""Most names in one message."""

_LIKENESS = 0.6
"""Lowest ratio of `difflib` at which a name is suggested, the library's own default."""


def known_names(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about an unknown name: a suggestion, then the known names.

    Args:
        name: What was given.
        known: All names that it might have been; may be empty.
    """
    if not known:
        return "there are none yet"
    by_folded = {one.casefold(): one for one in known}
    like = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1, cutoff=_LIKENESS)
    suggestion = f"did you mean {by_folded[like[0]]!r}? " if like else ""
    shown = ", ".join(map(repr, sorted(known)[:_SHOWN_NAMES]))
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    return f"{suggestion}Known are {shown}{more}"
