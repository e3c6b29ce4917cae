"""Guesses at an answer, which a row that is alone has checked instead of written token by token.

A pass over one row takes most of its time to read the weights: of SmolLM2-135M, one token takes 61
ms, 9 take 110 and 33 take 180 (docs/experiments.md, "Drafts"). What a greedy row chooses behind
each token of a guess tells how much of it is right, and is the row's own choice in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ("Drafts",)

_MOST_TOKENS = 8
"""Of a guess in one pass."""

_MOST_REPEATED = 32
"""The same, of the last answer to the very prompt, which is most likely right."""

_MOST_MISSES = 2
"""Guesses without a right token; behind them a row is written, as an answer that reasons is."""


class Drafts:
    """What one row's answer may be.

    Args:
        texts: The likeliest first.
        encode: Makes tokens of a text, with the end token behind them.
    """

    def __init__(self, texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._encoded: list[tuple[int, ...]] | None = None
        self._misses = 0

    def after(
        self, tokens: Sequence[int], *, last_answer: Sequence[int], room: int
    ) -> tuple[int, ...]:
        """Return how the answer may go on; nothing if no guess begins as it does.

        Args:
            tokens: Of the answer so far.
            last_answer: To the same prompt; empty if there was none.
            room: Most tokens to return.
        """
        if self._misses >= _MOST_MISSES or room < 1:
            return ()
        if self._encoded is None:
            self._encoded = [tuple(self._encode(text)) for text in self._texts]
        here, so_far = len(tokens), tuple(tokens)
        if len(last_answer) > here and tuple(last_answer[:here]) == so_far:
            return tuple(last_answer[here : here + min(room, _MOST_REPEATED)])
        for guess in self._encoded:
            if len(guess) > here and guess[:here] == so_far:
                return guess[here : here + min(room, _MOST_TOKENS)]
        return ()

    def note(self, *, right: int) -> None:
        """Take note of how many tokens of what `after` returned were right."""
        self._misses += right == 0
