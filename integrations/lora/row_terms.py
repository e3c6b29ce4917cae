"""The LoRA forward pass of a batch in which each row has its own adapter, or none.

Few adapters are applied one after the other to neighbouring rows. Many are stacked, those of one
rank and one first target together, so that a target takes two batched products whatever the number
of rows: on SmolLM2-135M with eight rows and eight adapters of rank 8 a token's terms take 8 to
12 ms instead of 30 to 38 ms, and stacking them takes 8 ms (one thread; docs/experiments.md). On a
GPU, where each product costs a launch, any two adapters are stacked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import Adapter, stacked_pairs, stacked_views

__all__ = (
    "FollowingAdapter",
    "OneByOne",
    "RowTerms",
    "SideBySide",
    "SpreadTerms",
    "StayingTerms",
    "TermsOfRows",
    "add_product",
    "by_device",
    "combine_adapters",
)


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


@dataclass(frozen=True, slots=True)
class TermsOfRows:
    """Terms of all rows of a batch, in parts; without gradients."""

    parts: tuple[OneByOne | SideBySide, ...]

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        out = forward(x)
        for part in self.parts:
            part.add(index, name, x, out)
        return out


def combine_adapters(
    adapters: Sequence[Adapter | None], room: Callable[[], float]
) -> TermsOfRows | None:
    """Return the terms for rows with these adapters; rows of `None` stay bit by bit as they are.

    Args:
        adapters: Adapter of each row.
        room: Returns the memory that stacks may take, in bytes; asked only where there are some.
    """
    spans = _spans_of(adapters)
    if not spans:
        return None
    parts: list[OneByOne | SideBySide] = []
    left: list[_Span] = []
    bytes_left: float | None = None
    for group in _alike(spans):
        if not _pays(group):
            left += group
            continue
        needed = sum((span.stop - span.start) * span.adapter.bytes for span in group)
        bytes_left = room() if bytes_left is None else bytes_left
        if needed > bytes_left:
            left += group
            continue
        bytes_left -= needed
        parts.append(SideBySide(group, len(adapters)))
    if left:
        parts.append(OneByOne(tuple(left), len(adapters)))
    return TermsOfRows(tuple(parts))


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


def _alike(spans: Sequence[_Span]) -> list[list[_Span]]:
    """Return the spans in groups of one rank and one first target, in the order of the rows."""
    groups: dict[tuple[int, int], list[_Span]] = {}
    for span in spans:
        groups.setdefault((span.adapter.rank, span.adapter.first), []).append(span)
    return list(groups.values())


def _pays(group: Sequence[_Span]) -> bool:
    """Tell whether a stack of a group's adapters takes less time than one after the other.

    Not on a CPU if most rows share theirs: a stack has a copy for each row.
    """
    if len(group) < 2:
        return False
    is_cpu = group[0].adapter.device.type == "cpu"
    return not is_cpu or 2 * len(group) > sum(span.stop - span.start for span in group)


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Terms of one adapter after the other; without gradients."""

    spans: tuple[_Span, ...]
    rows: int

    def add(self, index: int, name: str, x: Tensor, out: Tensor) -> None:
        """Add the terms of target number `index` to its output, in place."""
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


class SideBySide:
    """Terms of several adapters at once, all of one rank and on the same layers; no gradients.

    Args:
        spans: Rows of the batch with their adapters.
        batch: Rows of the batch, of which some may have no adapter here.
    """

    def __init__(self, spans: Sequence[_Span], batch: int) -> None:
        rows = [row for span in spans for row in range(span.start, span.stop)]
        present = [
            each
            for span in spans
            for each in itertools.repeat(span.adapter, span.stop - span.start)
        ]
        device = present[0].device
        self._batch = batch
        self._first = present[0].first
        self._rows: Tensor | None = None
        if len(rows) < batch:
            self._rows = torch.tensor(rows, device=device)  # [R], rows with an adapter
        # A [R, rank, in] and B transposed [R, rank, out]
        self._pairs = stacked_pairs(present)
        scales = [adapter.scale for adapter in present]
        self._alpha = scales[0] if len(set(scales)) == 1 else 1.0
        self._scale: Tensor | None = None
        if len(set(scales)) > 1:
            dtype = self._pairs[0][0].dtype
            self._scale = torch.tensor(scales, device=device, dtype=dtype).view(-1, 1, 1)

    def add(self, index: int, name: str, x: Tensor, out: Tensor) -> None:
        """Add the terms of target number `index` to its output, in place."""
        if index < self._first:
            return
        _check_rows(name, x, self._batch)
        a, b = self._pairs[index - self._first]
        given = x.reshape(self._batch, -1, x.shape[-1])  # [B, T, in]
        into = out.view(self._batch, -1, out.shape[-1])  # [B, T, out]
        if self._rows is not None:
            given = given[self._rows]  # [R, T, in], the rows that have an adapter
        low = torch.bmm(given.to(a.dtype), a.transpose(1, 2))  # [R, T, rank]
        if self._scale is not None:
            low.mul_(self._scale)
        if self._rows is not None:
            term = torch.bmm(low, b).to(out.dtype)
            into.index_add_(0, self._rows, term, alpha=self._alpha)
        elif out.dtype == b.dtype:
            into.baddbmm_(low, b, alpha=self._alpha)
        else:
            into.add_(torch.bmm(low, b).to(out.dtype), alpha=self._alpha)


class StayingTerms:
    """Terms of all rows over one stack that stays where it is; rows without one have zeros there.

    A recorded pass reads the stack as it is when it is replayed. No gradients.

    Args:
        like: Adapter whose rank and first target all have.
        rows: Rows of the batch.
        serial: Number that no other stack of the model has.
    """

    def __init__(self, like: Adapter, rows: int, *, serial: int) -> None:
        flat = like.numbers
        shapes = [half.shape for a, b in like.pairs for half in (a, b.t())]
        self.serial = serial
        self._first = like.first
        self._numbers = flat.new_zeros((rows, flat.numel()))
        self._scale = flat.new_zeros((rows, 1, 1))
        halves = stacked_views(self._numbers, shapes)
        self._pairs = list(zip(halves[::2], halves[1::2], strict=True))
        self._held: list[Adapter | None] = [None] * rows

    def load(self, adapters: Sequence[Adapter | None]) -> None:
        """Take the rows' adapters in, those that are there already excepted."""
        for row, adapter in enumerate(adapters):
            if adapter is self._held[row]:
                continue
            if adapter is None:
                self._numbers[row].zero_()
            else:
                self._numbers[row].copy_(adapter.numbers)
                self._scale[row] = adapter.scale
            self._held[row] = adapter

    def forget(self) -> None:
        """Hold no adapter any more; the copies stay until others are loaded."""
        self._held = [_FORGOTTEN] * len(self._held)

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        out = forward(x)
        if index < self._first:
            return out
        _check_rows(name, x, len(self._held))
        a, b = self._pairs[index - self._first]
        given = x.reshape(len(self._held), -1, x.shape[-1])  # [B, T, in]
        into = out.view(len(self._held), -1, out.shape[-1])  # [B, T, out]
        low = torch.bmm(given.to(a.dtype), a.transpose(1, 2)).mul_(self._scale)  # [B, T, rank]
        if out.dtype == b.dtype:
            into.baddbmm_(low, b)
        else:
            into.add_(torch.bmm(low, b).to(out.dtype))
        return out


_FORGOTTEN = Adapter(rank=1, alpha=1.0, pairs=())
"""Stands for an adapter that was let go of."""


@dataclass(frozen=True, slots=True)
class SpreadTerms:
    """Terms of each device, of which a target uses those of its own."""

    terms: Mapping[torch.device, RowTerms | None]
    places: Sequence[torch.device]
    """Device of each target of the layout."""

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        place = self.places[index]
        terms, given = self.terms[place], x.to(place)
        return forward(given) if terms is None else terms.output(index, name, given, forward)


@dataclass(frozen=True, slots=True)
class FollowingAdapter:
    """An adapter in training, whose halves go to their targets' devices and gradients come back."""

    adapter: Adapter
    places: Sequence[torch.device]
    """Device of each target of the layout."""

    @property
    def scale(self) -> float:
        """Factor of the adapter's term."""
        return self.adapter.scale

    def pair(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Return `A` and `B` of target number `index` on its device, if it has them."""
        pair = self.adapter.pair(index)
        place = self.places[index]
        return None if pair is None else (pair[0].to(place), pair[1].to(place))


def by_device(
    adapters: Sequence[Adapter | None], places: Sequence[torch.device]
) -> dict[torch.device, tuple[Adapter | None, ...]]:
    """Return copies of the rows' adapters on each device; rows of one adapter share its copy."""
    found: dict[torch.device, tuple[Adapter | None, ...]] = {}
    for place in dict.fromkeys(places):
        copies = {id(each): each.on(place) for each in adapters if each is not None}
        found[place] = tuple(None if each is None else copies[id(each)] for each in adapters)
    return found


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
