"""Words of failures for people elsewhere: without addresses, paths and names of accounts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

__all__ = ("without_places", "without_places_in")

_HIDDEN = "[hidden]"

_QUOTED = (
    r"(?P<what>\b(?:server at|host name|hostname|host|user|role|database|socket|file|folder|path|"
    r"directory)\s+)(?P<quote>[\"'])[^\"']*(?P=quote)"
)
_PLACES = re.compile(
    "|".join(
        (
            r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+",  # a URL or DSN
            r"\b(?:host|hostaddr|port|user|password|dbname|service|passfile|sslkey|sslcert|"
            r"sslrootcert)\s*=\s*(?:'[^']*'|\"[^\"]*\"|[^\s,;)]+)",  # libpq's words
            r"\(?'?\b\d{1,3}(?:\.\d{1,3}){3}\b'?(?:(?::|,\s*)\d+)?\)?",  # IPv4, with a port
            r"\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?\](?::\d+)?",  # IPv6, with a port
            r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])",
            r"\bport\s+\d+",
            r"(?<![\w/.])~?/(?:[\w.@%+~-]+/)*[\w.@%+~-]+",  # a path
            r"\b[A-Za-z]:\\[^\s'\"]+",
            r"\b(?:[\w-]+\.)+[\w-]+:\d{2,5}\b",  # a name with a port
        )
    )
)
_NAMED = re.compile(_QUOTED)


def without_places(text: str) -> str:
    """Return a failure's words without what says where the server's parts are.

    Whoever runs the server has the whole words in its log and in the stored ledger.
    """
    named = _NAMED.sub(rf"\g<what>{_HIDDEN}", text)
    return _PLACES.sub(_HIDDEN, named)


def without_places_in(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a ledger, or an event, whose `error` was treated so."""
    return {name: _shown(name, value) for name, value in entry.items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_places_in(cast("Mapping[str, Any]", value))
    return without_places(value) if name == "error" and isinstance(value, str) else value
