"""The prompt cache: keys and values of recent prompts, reused for the beginning of the next one.

Prompts share their system prompt, the earlier turns of a conversation, and all samples after a hit
in the query-state cache; a repeated query finds its adapter's whole prompt. An entry serves only
the adapter and the scope of reuse that it was computed for, so timing tells nothing about another
tenant's prompts.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
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
    """Number of tokens that may be reused, perhaps fewer than `layers` has; fewer than the prompt
    has, since the last one gives logits."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A prompt, with the keys and values of what no entry before it has."""

    key: tuple[Owner, tuple[int, ...]]
    layers: Layers
    """Keys and values of the tokens from `first` on."""
    first: int = 0
    before: _Entry | None = None
    """Entry that has the tokens before `first`."""
    followers: int = 0
    """Number of entries that go on from this one."""
    answer: tuple[int, ...] = ()
    """Last greedy answer, most likely the next one too."""


class PromptCache:
    """Recent prompts with their answers; the least recently used are dropped. For the lane only.

    A prompt that begins as another one does keeps only what comes after: the steps of a tree cost
    their own tokens, not their whole paths. What others go on from is dropped after them.

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

    def known_tokens(self, owner: Owner, prompt: Sequence[int]) -> int:
        """Return how many of a prompt's first tokens `longest` would have."""
        return self._found(owner, prompt)[1]

    def longest(self, owner: Owner, prompt: Sequence[int]) -> Known | None:
        """Return the longest cached beginning of the prompt."""
        entry, shared = self._found(owner, prompt)
        return None if entry is None else Known(_layers(entry), shared)

    def add(self, owner: Owner, prompt: Sequence[int], read: Callable[[int], Layers]) -> None:
        """Keep a prompt, unless it alone exceeds the memory.

        Args:
            owner: Scope and adapter that it was computed for.
            prompt: Its tokens.
            read: Returns keys and values of as many of its last tokens.
        """
        key = (owner, tuple(prompt))
        if key in self._entries:
            return
        before, first = self._found(owner, prompt)
        while before is not None and first <= before.first:
            before = before.before  # all that is shared with it, it shares with the one before it
        entry = _Entry(key, read(len(prompt) - first), first, before)
        if self._make_room(entry):
            self._entries[key] = entry
            self._bytes += _size(entry.layers)
            if before is not None:
                before.followers += 1

    def answer(self, owner: Owner, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a prompt's last answer; empty for a prompt that is not kept."""
        entry = self._entries.get((owner, tuple(prompt)))
        return entry.answer if entry else ()

    def note_answer(self, owner: Owner, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Keep the answer of a prompt, if the prompt is kept."""
        entry = self._entries.get((owner, tuple(prompt)))
        if entry is not None:
            entry.answer = tuple(answer)

    def _found(self, owner: Owner, prompt: Sequence[int]) -> tuple[_Entry | None, int]:
        """Return the entry that shares most with a prompt, and how many tokens.

        It is now the last to be dropped. The prompt's last token does not count: it is computed,
        for its logits.
        """
        asked = tuple(prompt[:-1])
        best, shared = None, 0
        for (whose, kept), entry in self._entries.items():
            # Slices are compared at the speed of C, and hardly any entry shares more than the best.
            if whose == owner and kept[: shared + 1] == asked[: shared + 1] != asked[:shared]:
                best, shared = entry, common_beginning(kept, asked)
        at = best
        while at is not None:  # an entry outlives those that go on from it
            self._entries.move_to_end(at.key)
            at = at.before
        return best, shared

    def _make_room(self, entry: _Entry) -> bool:
        """Drop what was not used for longest until an entry fits; tell whether it does."""
        size = _size(entry.layers)
        whole, before = size, entry.before
        while before is not None:
            whole += _size(before.layers)
            before = before.before
        if whole > self._max_bytes:
            return False
        while self._bytes + size > self._max_bytes:
            oldest = next(
                one
                for one in self._entries.values()
                if one.followers == 0 and one is not entry.before
            )
            del self._entries[oldest.key]
            self._bytes -= _size(oldest.layers)
            if oldest.before is not None:
                oldest.before.followers -= 1
        return True


def common_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _layers(entry: _Entry) -> Layers:
    """Return keys and values of a whole entry."""
    parts = [entry.layers]
    while entry.before is not None:
        kept = entry.first
        entry = entry.before
        parts.insert(0, _first(entry.layers, kept - entry.first))
    if len(parts) == 1:
        return parts[0]
    return [
        (torch.cat([keys for keys, _ in layer], dim=-2), torch.cat([v for _, v in layer], dim=-2))
        for layer in zip(*parts, strict=True)
    ]


def _first(layers: Layers, tokens: int) -> Layers:
    return [(keys[..., :tokens, :], values[..., :tokens, :]) for keys, values in layers]


def _size(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)
