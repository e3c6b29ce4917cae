"""The prompt cache: keys and values of recent prompts, reused for the beginning of the next one.

Prompts share their system prompt, the earlier turns of a conversation, and all samples after a hit
in the query-state cache; a repeated query finds its adapter's whole prompt. An entry serves only
the adapter and the scope of reuse that it was computed for, so timing tells nothing about another
tenant's prompts.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Owner = tuple[str, str | None, int]
"""Scope of a prompt (`GenerationRequest.reuse_scope`), and key and version of the adapter it was
computed with; `None` and -1 for the base model."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both [H, P, D]."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Known part of a prompt: keys and values of its first tokens."""

    layers: Layers
    tokens: int
    """Number of tokens that may be reused; fewer than the prompt has, since the last one gives
    logits."""


@dataclass(slots=True, eq=False)
class _Entry:
    layers: Layers
    answer: tuple[int, ...] = ()
    """Last greedy answer, most likely the next one too."""


class PromptCache:
    """Recent prompts with their answers; the least recently used are dropped. For the lane only.

    Args:
        max_bytes: Memory for keys and values in bytes; 0 keeps nothing.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Owner, tuple[int, ...]], _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Memory of all entries."""
        return self._bytes

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def longest(self, owner: Owner, prompt: Sequence[int]) -> Known | None:
        """Return the longest cached beginning of the prompt."""
        best, shared = None, 0
        for entry in self._entries:
            if entry[0] == owner and (common := common_beginning(entry[1], prompt)) > shared:
                best, shared = entry, common
        shared = min(shared, len(prompt) - 1)  # the last token is computed: it gives the logits
        if best is None or shared < 1:
            return None
        self._entries.move_to_end(best)
        return Known(self._entries[best].layers, shared)

    def add(self, owner: Owner, prompt: Sequence[int], layers: Layers) -> None:
        """Keep a prompt, unless it alone exceeds the memory."""
        key = (owner, tuple(prompt))
        size = _size(layers)
        if key in self._entries or size > self._max_bytes:
            return
        while self._bytes + size > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= _size(oldest.layers)
        self._entries[key] = _Entry(layers)
        self._bytes += size

    def answer(self, owner: Owner, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a prompt's last answer; empty for a prompt that is not kept."""
        entry = self._entries.get((owner, tuple(prompt)))
        return entry.answer if entry else ()

    def note_answer(self, owner: Owner, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Keep the answer of a prompt, if the prompt is kept."""
        entry = self._entries.get((owner, tuple(prompt)))
        if entry is not None:
            entry.answer = tuple(answer)


def common_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _size(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)
