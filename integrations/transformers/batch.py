"""Rows that are decoded together: one key-value cache, padded on the left.

Rows join and leave between tokens: a newcomer's cache is padded to the length of the others', a
leaver's is dropped, and padding that all rows share is cut off. Only plain attention caches are
kept, whole also for layers with a sliding window, since the mask cuts the window anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

Forward = Callable[..., Any]
"""`model.forward`, or a stand-in that applies an adapter to each row."""


class _Layer(Protocol):
    """A layer's cache; `None` before its first use, or where it is no key-value cache."""

    keys: Tensor | None
    values: Tensor | None


class RunningBatch:
    """The cache of the rows in work; it knows tokens and positions, not requests.

    Args:
        device: Of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=device)  # [B, P]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._mask.shape[0]

    def join(self, prompts: Sequence[Sequence[int]], forward: Forward) -> Tensor:
        """Compute the prompts, put them behind the present rows and return their logits [N, V]."""
        ids, mask = left_padded(prompts, self._device)
        cache = DynamicCache()
        out = forward(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if self.rows:
            self._merge(cache, mask)
        else:
            self._cache, self._mask = cache, mask
        return cast("Tensor", out.logits[:, -1])

    def step(self, tokens: Sequence[int], forward: Forward) -> Tensor:
        """Add one token to each row and return the logits behind it [B, V]."""
        self._mask = pad(self._mask, (0, 1), value=1)
        out = forward(
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            attention_mask=self._mask,
            position_ids=positions(self._mask)[:, -1:],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cast("Tensor", out.logits[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which keep their order, and the padding they have in common."""
        if not rows:
            self._cache = DynamicCache()
            self._mask = self._mask[:0, :0]
            return
        index = torch.tensor(rows, device=self._device)
        mask = self._mask[index]
        first = int(mask.argmax(dim=1).min())
        self._mask = mask[:, first:]
        for layer in _layers(self._cache):
            layer.keys = _present(layer.keys)[index, :, first:]
            layer.values = _present(layer.values)[index, :, first:]

    def _merge(self, cache: DynamicCache, mask: Tensor) -> None:
        """Put the newcomers behind the present rows; when memory runs out, nothing has changed."""
        length = max(self._mask.shape[1], mask.shape[1])
        joined = [
            (_stacked(mine.keys, new.keys, length), _stacked(mine.values, new.values, length))
            for mine, new in zip(_layers(self._cache), _layers(cache), strict=True)
        ]
        for layer, (keys, values) in zip(_layers(self._cache), joined, strict=True):
            layer.keys, layer.values = keys, values
        self._mask = torch.cat([_widened(self._mask, length), _widened(mask, length)])


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, P]; padding has the id 0, which the mask hides."""
    length = max(map(len, rows))
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, length - len(row) :] = torch.tensor(row)
        mask[at, length - len(row) :] = 1
    return ids.to(device), mask.to(device)


def positions(mask: Tensor) -> Tensor:
    """Return each token's position in its own row [B, P]; padding has position 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _layers(cache: DynamicCache) -> list[_Layer]:
    return cast("list[_Layer]", cache.layers)


def _widened(mask: Tensor, length: int) -> Tensor:
    return pad(mask, (length - mask.shape[1], 0))


def _stacked(first: Tensor | None, second: Tensor | None, length: int) -> Tensor:
    """Put two caches [B, H, P, D] of different length under each other, padded on the left."""
    parts = (_present(first), _present(second))
    return torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in parts])


def _present(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError("the model keeps no plain key-value cache, so its rows cannot be batched")
    return part
