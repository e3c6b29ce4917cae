"""A sentence-transformers model that also sees the end of a text longer than it can read at once.

Such a model reads the first tokens of a text and drops the rest. Where all questions begin with the
same long instruction, all of them then have one vector. Here the beginning and the end of a long
text are embedded apart, and its vector lies between theirs. A text that the model reads whole has
the vector that it has always had, at the same price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from langchain_huggingface import HuggingFaceEmbeddings

__all__ = ("LongTextEmbeddings",)

END_TOKENS: Final = 32
"""Tokens kept at each end of a long text. Among 200 questions of banking77 behind 450 tokens of
rules that all of them share, the nearest other one had the same label for 50 in 100, for 42 with 64
tokens at each end; behind five times the same policy for 38 and 42; with the first 254 tokens for 2
(all-MiniLM-L6-v2)."""

_TAIL_SHARE: Final = 2 / 3
"""Share of the kept tokens that comes from the end of a text, where the question mostly stands."""


class LongTextEmbeddings(HuggingFaceEmbeddings):
    """Embeds the folder's model; control tokens in a text are text."""

    def __init__(self, **settings: Any) -> None:
        """Load the model; its tokenizer reads special tokens in a text letter by letter."""
        super().__init__(**settings)
        self._client.tokenizer.split_special_tokens = True

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text, in order."""
        ends = {at: found for at, text in enumerate(texts) if (found := self._ends(text))}
        whole = [text for at, text in enumerate(texts) if at not in ends]
        vectors = iter(super().embed_documents(whole) if whole else [])
        parts = [part for pair in ends.values() for part in pair]
        of_parts = super().embed_documents(parts) if parts else []
        between = {
            at: _between(of_parts[2 * number], of_parts[2 * number + 1])
            for number, at in enumerate(ends)
        }
        return [between[at] if at in between else next(vectors) for at in range(len(texts))]

    def unread(self, text: str) -> int:
        """Return how many characters of a text its vector says nothing of."""
        ends = self._ends(text)
        return len(text) - sum(map(len, ends)) if ends else 0

    def _ends(self, text: str) -> tuple[str, str] | None:
        """Return beginning and end of a text that is too long to be read at once."""
        limit = self._client.max_seq_length
        tokenizer = self._client.tokenizer
        if limit is None or len(text) <= (room := limit - _special_tokens(tokenizer)):
            return None  # a token has at least one character
        spans = _spans(tokenizer, text)
        if len(spans) <= room:
            return None
        kept = max(1, min(END_TOKENS, room // 2))
        return text[: spans[kept - 1][1]], text[spans[-kept][0] :]


def _special_tokens(tokenizer: Any) -> int:
    return cast("int", tokenizer.num_special_tokens_to_add())


def _spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Return where each token of a text begins and ends in it."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        truncation=False,
        padding=False,
        verbose=False,
    )
    return cast("list[tuple[int, int]]", encoded["offset_mapping"])


def _between(head: Sequence[float], tail: Sequence[float]) -> list[float]:
    share = _TAIL_SHARE
    return [(1 - share) * first + share * last for first, last in zip(head, tail, strict=True)]
