"""Guesses at an answer, which a row that is alone has checked instead of written token by token.

A pass over one row takes most of its time to read the weights: of SmolLM2-135M, one token takes 61
ms, 9 take 110 and 33 take 180 (docs/experiments.md, "Drafts"). What a greedy row chooses behind
each token of a guess tells how much of it is right, and is the row's own choice in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

__all__ = ("Drafts",)

_MOST_TOKENS = 8
"""Most tokens of a draft that are checked in one pass."""

_MOST_REPEATED = 32
"""That limit for the previous answer to this exact prompt, which is most likely right."""

_MOST_MISSES = 2
"""Drafts in a row without an accepted token after which the row is decoded token by token, as a
reasoning answer is."""


class Drafts:
    """Drafts of one row's answer.

    Args:
        texts: The likeliest first.
        encode: Returns a text's tokens, followed by the end token.
    """

    last_answer: tuple[int, ...] = ()
    """Previous answer to the same prompt, the likeliest draft; set before the first use."""

    def __init__(self, texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._misses = 0

    def after(self, tokens: Sequence[int], *, room: int) -> tuple[int, ...]:
        """Return how the answer may go on; nothing if no guess begins as it does.

        Args:
            tokens: Tokens of the answer so far.
            room: Most tokens to return.
        """
        if self._misses >= _MOST_MISSES or room < 1:
            return ()
        here, so_far = len(tokens), tuple(tokens)
        for guess, most in self._guesses:
            if len(guess) > here and guess[:here] == so_far:
                return guess[here : here + min(room, most)]
        return ()

    @cached_property
    def _guesses(self) -> list[tuple[tuple[int, ...], int]]:
        """Guesses and how many tokens of each go into a pass; made for a row that is alone only."""
        of_texts = [(tuple(self._encode(text)), _MOST_TOKENS) for text in self._texts]
        return [(self.last_answer, _MOST_REPEATED), *of_texts]

    def note(self, *, right: int) -> None:
        """Take note of how many tokens of what `after` returned were right."""
        self._misses += right == 0
