"""What makes samples and queries the same, and the limits of what is kept of them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from rttc_graph.errors import ConfigurationError

__all__ = (
    "MAX_NAME_CHARACTERS",
    "MAX_TEXT_CHARACTERS",
    "check_texts",
    "checked_name",
    "clean",
    "known_names",
    "likely_name",
    "meant_name",
    "query_digest",
    "sample_id",
    "unknown_domain",
    "unknown_name",
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
"""Most names of users' own in one message; the names of the program are always shown whole."""

_LIKENESS = 0.6
"""Lowest ratio of `difflib` at which a name is suggested, the library's own default."""


_MISTAKE = 0.8
"""Ratio of `difflib` from which on a name is more likely a mistake than another name: two letters
exchanged in one of five."""


def likely_name(name: str, known: Collection[str], *, likeness: float = _MISTAKE) -> str | None:
    """Return the known name that was probably meant; `None` if none is like it.

    Args:
        name: What was given.
        known: Names that it might have been.
        likeness: Lowest ratio of `difflib.SequenceMatcher`, 0 to 1.
    """
    by_folded = {one.casefold(): one for one in known}
    like = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1, cutoff=likeness)
    return by_folded[like[0]] if like else None


def meant_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name to suggest for one that is certainly wrong; `None` if none is like it.

    Args:
        name: What was given.
        known: Names that it might have been.
    """
    return likely_name(name, known, likeness=_LIKENESS)


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Return what is wrong with a name that is none of ours: what there is, and what was meant.

    Args:
        name: What was given.
        known: All names of the program that it might have been, in the order in which they are
            shown.
    """
    meant = meant_name(name, known)
    suggestion = "" if meant is None else f"; did you mean {meant!r}?"
    return f"{name!r} is not one of {', '.join(map(repr, known))}{suggestion}"


def known_names(name: str, known: Sequence[str], *, most: int = _SHOWN_NAMES) -> str:
    """Return the end of an error about an unknown name: a suggestion, then the known names.

    Args:
        name: What was given.
        known: All names that it might have been; may be empty.
        most: How many of them are shown.
    """
    if not known:
        return "there are none yet"
    meant = meant_name(name, known)
    suggestion = f"did you mean {meant!r}? " if meant else ""
    shown = ", ".join(map(repr, sorted(known)[:most]))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"{suggestion}Known are {shown}{more}"


def unknown_domain(
    domain: str, known: Collection[str], *, tenant: str, may_be_all: bool = True
) -> ConfigurationError:
    """Return the error about a domain in which a tenant has no samples.

    Args:
        domain: The name that was given.
        known: The domains that have some.
        tenant: Tenant of the samples.
        may_be_all: Whether all domains may have been meant.
    """
    fill = f"fill it with 'rttc kb ingest FILE --domain {domain}'"
    said = f"domain {domain!r} of tenant {tenant!r} has no samples"
    if not known:
        return ConfigurationError(f"{said}: the knowledge base is empty; {fill}")
    meant = known_names(domain, sorted(known))
    way = f". Leave the domain out to mean all, or {fill}" if may_be_all else ""
    return ConfigurationError(f"{said}: {meant}{way}")
