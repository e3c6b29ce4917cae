"""Question and answer to token ids, quickly also when somebody hands in a book."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from rttc_graph.integrations.rewards.pair_encoding import EncodedPair, PairEncoder
from rttc_graph.integrations.rewards.shorten import keep_ends
from rttc_graph.integrations.rewards.trained.echoes import without_echo
from rttc_graph.support.identity import clean

_CHARACTERS_PER_TOKEN = 16
"""More than a token of running text has; what is cut by this would not have been read anyway."""

_CHARACTERS_SEARCHED = 50_000
"""Characters searched for copies of the question, 0.4 s at most; of a longer text, its two ends."""


@dataclass(frozen=True, slots=True)
class RewardPairs:
    """Encodes pairs for a reward network."""

    encoder: PairEncoder
    apart: bool
    """Whether each text is a row of its own, `max_tokens` long; else both share that length."""

    def encode(self, question: str, answer: str) -> EncodedPair:
        """Return the ids of the question and of what the answer adds to it.

        The question's end and the answer's ends are kept.
        """
        question = clean(question)[-_CHARACTERS_SEARCHED:]
        answer = without_echo(question, keep_ends(clean(answer), _CHARACTERS_SEARCHED))
        limit = self.encoder.max_tokens * _CHARACTERS_PER_TOKEN
        question, answer = question[-limit:], keep_ends(answer, limit)
        if not self.apart:
            return self.encoder.encode(question, answer)
        asked, said = self._row(question), self._row(answer)
        spare = len(asked) - self.encoder.max_tokens
        if spare > 0:
            asked = [asked[0], *asked[1 + spare :]]
        spare = len(said) - self.encoder.max_tokens
        if spare > 0:
            half = self.encoder.max_tokens // 2
            said = [*said[:half], *said[half + spare :]]
        return EncodedPair([*asked, *said], [0] * len(asked) + [1] * len(said))

    def _row(self, text: str) -> list[int]:
        """Return the ids of one text between the tokenizer's special tokens."""
        encoded = self.encoder.tokenizer(text, split_special_tokens=True, verbose=False)
        return cast("list[int]", encoded["input_ids"])
