"""Loops: an answer that says the same again and again, which a small model seldom leaves."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 64
"""Most tokens that are repeated, about three sentences."""

TIMES = 3
"""Times that a piece is repeated, at least, for a loop."""

LEAST = 48
"""Tokens that all repetitions together have, at least: a row of a table, a line of signs and a
count of twelve are shorter."""


def is_looping(tokens: Sequence[int]) -> bool:
    """Tell whether the last tokens are one piece, repeated; exactly, so that a list is no loop."""
    end = len(tokens)
    for size in range(1, LONGEST + 1):
        needed = max(TIMES * size, LEAST)
        if needed > end:
            # A longer piece needs as many tokens or more.
            return False
        if tokens[-1] == tokens[-1 - size] and _repeats(tokens, size, needed):
            return True
    return False


def _repeats(tokens: Sequence[int], size: int, needed: int) -> bool:
    """Tell whether each of the last tokens is the one that stands `size` before it."""
    end = len(tokens)
    return all(tokens[at] == tokens[at - size] for at in range(end - needed + size, end))
