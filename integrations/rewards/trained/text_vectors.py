"""Vectors of texts, kept by text: samples come back from run to run, candidates within one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_KEPT = 8_192
"""Vectors that are kept, the latest used ones; those of MiniLM take 1.5 KB each."""

_READ_AT_ONCE = 64


class TextVectors:
    """A memory in front of an encoder; belongs to one thread.

    Args:
        read: Texts to their unit vectors [N, H].
        most: Vectors that are kept at most.
    """

    def __init__(self, read: Callable[[Sequence[str]], Tensor], *, most: int = MOST_KEPT) -> None:
        self._read = read
        self._most = most
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors [N, H] of one text or more, in order."""
        missing = sorted({text for text in texts if text not in self._kept}, key=len)
        fresh: dict[str, Tensor] = {}
        for first in range(0, len(missing), _READ_AT_ONCE):
            piece = missing[first : first + _READ_AT_ONCE]
            fresh |= zip(piece, self._read(piece), strict=True)
        found = torch.stack([fresh[t] if t in fresh else self._kept[t] for t in texts])
        self._keep(texts, fresh)
        return found

    def _keep(self, texts: Sequence[str], fresh: dict[str, Tensor]) -> None:
        for text in texts:
            if text in fresh:
                self._kept[text] = fresh[text].clone()  # not a view of the whole batch
            self._kept.move_to_end(text)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
