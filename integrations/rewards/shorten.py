"""Cutting what is too long for a judge, so that the ends stay."""

from __future__ import annotations

ELLIPSIS = " […] "
"""Stands where something was cut out."""


def keep_ends(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: its head and its tail.

    An answer's last lines hold its result and its first lines say how it goes about it; what can
    be spared is in between.
    """
    if len(text) <= limit:
        return text
    room = limit - len(ELLIPSIS)
    if room < 2:
        return text[-limit:] if limit > 0 else ""
    head = room // 2
    return text[:head] + ELLIPSIS + text[head - room :]
