"""Drafts of an answer, which a lone row checks several tokens a pass.

A pass over one row spends most of its time reading the weights: for SmolLM2-135M, one token takes
61 ms, 9 take 110 and 33 take 180 (docs/experiments.md, "Drafts"). The greedy choice after each
token of a draft tells how much of the draft is right, and is the row's own choice in any case.
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
        texts: Texts that the answer may be, the likeliest first.
        encode: Returns a text's tokens, followed by the end token.
    """

    last_answer: tuple[int, ...] = ()
    """Previous answer to the same prompt, the likeliest draft; set before the first use."""

    def __init__(self, texts: Sequence[str], encode: Callable[[str], Sequence[int]]) -> None:
        self._texts = texts
        self._encode = encode
        self._misses = 0

    def after(self, tokens: Sequence[int], *, room: int) -> tuple[int, ...]:
        """Return tokens that may come next; none if no draft begins as the answer does.

        Args:
            tokens: Tokens of the answer so far.
            room: Most tokens to return.
        """
        if self._misses >= _MOST_MISSES or room < 1:
            return ()
        here, so_far = len(tokens), tuple(tokens)
        for draft, most in self._drafts:
            if len(draft) > here and draft[:here] == so_far:
                return draft[here : here + min(room, most)]
        return ()

    @cached_property
    def _drafts(self) -> list[tuple[tuple[int, ...], int]]:
        """Drafts, each with its most tokens a pass; made only once a row is alone."""
        by_text = [(tuple(self._encode(text)), _MOST_TOKENS) for text in self._texts]
        return [(self.last_answer, _MOST_REPEATED), *by_text]

    def note(self, *, right: int) -> None:
        """Note how many tokens of the last draft were right."""
        self._misses += right == 0
