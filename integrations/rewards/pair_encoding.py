"""Question and answer as the token ids a reward model reads, cut where they are too long.

The answer is what is judged, so the question gives way first, from its left: what is asked mostly
stands at its end. An answer that is too long by itself keeps its head and its tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.rewards.shorten import keep_ends
from rttc_graph.integrations.transformers.literal import encode_chat, encode_text
from rttc_graph.state import ChatTurn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROUNDS = 12
"""Cuts that are tried: tokens do not add up exactly, so the first one may not be enough."""

_ELLIPSIS_TOKENS = 8
"""More than the mark of an omission takes with any tokenizer."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One row of a reward model's input; both lists have the same length."""

    ids: list[int]
    types: list[int]
    """0 for the question's tokens and 1 for the answer's, in a plain pair; else all 0."""


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """Turns pairs into ids with the tokenizer's chat template, or as a plain pair without one."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    def encode(self, question: str, answer: str) -> EncodedPair:
        """Return at most `max_tokens` ids.

        Raises:
            RewardModelError: The template alone is longer than that, or refuses the pair.
        """
        pair = self._encoded(question, answer)
        for _ in range(_ROUNDS):
            excess = len(pair.ids) - self.max_tokens
            if excess <= 0:
                return pair
            if question:
                question = self._without_head(question, excess)
            elif answer:
                answer = self._without_middle(answer, excess)
            else:
                break
            pair = self._encoded(question, answer)
        raise RewardModelError(
            f"the reward model's template alone does not fit into max_tokens={self.max_tokens}: "
            "raise it"
        )

    def _encoded(self, question: str, answer: str) -> EncodedPair:
        if not self.tokenizer.chat_template:
            return _row(self.tokenizer(question, answer, split_special_tokens=True, verbose=False))
        turns: list[ChatTurn] = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        try:
            ids = encode_chat(self.tokenizer, turns, answer_follows=False)
        except (TemplateError, ValueError, TypeError) as exc:
            raise RewardModelError(f"the reward model's template refused a pair: {exc}") from exc
        return EncodedPair(ids, [0] * len(ids))

    def _without_head(self, text: str, tokens: int) -> str:
        """Return the text less its first `tokens` tokens."""
        ids = encode_text(self.tokenizer, text)
        if tokens >= len(ids):
            return ""
        rest = cast(str, self.tokenizer.decode(ids[tokens:])).lstrip("\ufffd")
        if text.endswith(rest) and len(rest) < len(text):
            return rest
        # A tokenizer that normalises does not give back what it was given: cut by length.
        return text[math.ceil(len(text) * tokens / len(ids)) :]

    def _without_middle(self, text: str, tokens: int) -> str:
        """Return head and tail of the text, at least about `tokens` tokens less."""
        per_token = len(text) / max(1, len(encode_text(self.tokenizer, text)))
        spare = math.ceil((tokens + _ELLIPSIS_TOKENS) * per_token)
        return keep_ends(text, max(0, len(text) - spare))


def _row(encoding: Mapping[str, Any]) -> EncodedPair:
    ids = cast(list[int], encoding["input_ids"])
    return EncodedPair(ids, cast(list[int], encoding.get("token_type_ids") or [0] * len(ids)))
