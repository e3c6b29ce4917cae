"""What an error about an unknown name says: the names that are known, and the likeliest of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ("known_names",)

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
