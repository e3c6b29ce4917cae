"""The LoRA forward pass of a batch in which each row has its own adapter, or none.

Few adapters are applied one after the other to neighbouring rows. Many are stacked, so that a
target takes two batched products whatever the number of rows: on SmolLM2-135M with eight rows and
eight adapters of rank 8 a token's terms take 8 to 12 ms instead of 30 to 38 ms, and stacking them
takes 8 ms (one thread; docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import Adapter

__all__ = ("MOST_BYTES", "OneByOne", "RowTerms", "SideBySide", "add_product", "combine_adapters")

MOST_BYTES = 256 * 2**20
"""Most memory of stacked adapters, beside the resident ones, while a forward pass uses them."""


class RowTerms(Protocol):
    """Outputs of a model's targets with adapters."""

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the output of target number `index` for `x`, with the rows' terms.

        Args:
            index: Index of the target in the layout.
            name: Name of the target, for messages.
            x: Input of the target [B, T, in], or with the rows of the batch first in another shape.
            forward: The target without terms; its result is a new tensor that may be changed.

        Raises:
            AdaptationError: `x` has not as many rows as the batch.
        """
        ...


def combine_adapters(adapters: Sequence[Adapter | None]) -> RowTerms | None:
    """Return the terms for rows with these adapters; rows of `None` stay bit by bit as they are."""
    spans = _spans_of(adapters)
    if not spans:
        return None
    if len(spans) > 1 and _fit_side_by_side(spans):
        return SideBySide(adapters)
    return OneByOne(spans, len(adapters))


def _fit_side_by_side(spans: Sequence[_Span]) -> bool:
    """Tell whether most rows have their own adapter, all of one shape, and a stack of them fits."""
    rows = sum(span.stop - span.start for span in spans)
    if 2 * len(spans) <= rows or len({(s.adapter.rank, s.adapter.first) for s in spans}) > 1:
        return False
    return sum((s.stop - s.start) * s.adapter.bytes for s in spans) <= MOST_BYTES


@dataclass(frozen=True, slots=True)
class _Span:
    """Neighbouring rows with one adapter."""

    start: int
    stop: int
    adapter: Adapter


def _spans_of(adapters: Sequence[Adapter | None]) -> tuple[_Span, ...]:
    spans: list[_Span] = []
    for row, adapter in enumerate(adapters):
        if adapter is None:
            continue
        if spans and spans[-1].stop == row and spans[-1].adapter is adapter:
            spans[-1] = _Span(spans[-1].start, row + 1, adapter)
        else:
            spans.append(_Span(row, row + 1, adapter))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class OneByOne:
    """One adapter after the other; without gradients."""

    spans: tuple[_Span, ...]
    rows: int

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        out = forward(x)
        for span in self.spans:
            pair = span.adapter.pair(index)
            if pair is None:
                continue
            a, b = pair
            if span.stop - span.start == self.rows:
                _add_term(out, x, a, b, span.adapter.scale)
            else:
                _check_rows(name, x, self.rows)
                part = slice(span.start, span.stop)
                _add_term(out[part], x[part], a, b, span.adapter.scale)
        return out


class SideBySide:
    """All adapters at once, all of one rank and on the same layers; without gradients."""

    def __init__(self, adapters: Sequence[Adapter | None]) -> None:
        present = [adapter for adapter in adapters if adapter is not None]
        device = present[0].pairs[0][0].device
        self._batch = len(adapters)
        self._first = present[0].first
        self._rows: Tensor | None = None
        if len(present) < len(adapters):
            adapted = [row for row, adapter in enumerate(adapters) if adapter is not None]
            self._rows = torch.tensor(adapted, device=device)  # [R], rows with an adapter
        self._pairs = [
            (torch.stack([a for a, _ in pairs]), torch.stack([b.t() for _, b in pairs]))
            for pairs in zip(*(adapter.pairs for adapter in present), strict=True)
        ]  # A [R, rank, in] and B transposed [R, rank, out]
        scales = [adapter.scale for adapter in present]
        self._scale = torch.tensor(scales, device=device).view(-1, 1, 1)  # [R, 1, 1]

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        out = forward(x)
        if index < self._first:
            return out
        _check_rows(name, x, self._batch)
        a, b = self._pairs[index - self._first]
        given = x.reshape(self._batch, -1, x.shape[-1])  # [B, T, in]
        into = out.view(self._batch, -1, out.shape[-1])  # [B, T, out]
        if self._rows is not None:
            given = given[self._rows]  # [R, T, in], the rows that have an adapter
        low = torch.bmm(given.to(a.dtype), a.transpose(1, 2)).mul_(self._scale)  # [R, T, rank]
        if self._rows is not None:
            into.index_add_(0, self._rows, torch.bmm(low, b).to(out.dtype))
        elif out.dtype == b.dtype:
            into.baddbmm_(low, b)
        else:
            into.add_(torch.bmm(low, b).to(out.dtype))
        return out


def _add_term(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """Add `scale · x Aᵀ Bᵀ` to `out` in place; `out` is a linear layer's fresh result."""
    low = x.reshape(-1, x.shape[-1]).to(a.dtype) @ a.t()  # [N, rank]
    add_product(out.view(-1, out.shape[-1]), low, b.t(), scale)


def add_product(out: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add `scale · left right` to `out` in place, whatever its type.

    Args:
        out: Sum so far [N, M].
        left: Left factor [N, rank].
        right: Right factor [rank, M], of the same type.
        scale: Factor.
    """
    if out.dtype == left.dtype:
        out.addmm_(left, right, alpha=scale)
    else:
        out.add_((left @ right).to(out.dtype), alpha=scale)


def _check_rows(name: str, x: Tensor, rows: int) -> None:
    if x.shape[0] != rows:
        raise AdaptationError(
            f"layer {name!r} got {x.shape[0]} rows for a batch of {rows}: it does not keep the "
            "batch apart, so give every row of a batch the same adapter"
        )
