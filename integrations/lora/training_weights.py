"""What a training changes: an adapter's numbers, their gradient and their moments."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import Adapter, pairs_in

__all__ = ("TrainingWeights",)

_FUSED = frozenset({"cpu", "cuda"})
"""Devices for which AdamW is one kernel instead of a dozen for each of hundreds of tensors."""


_SCALE_STEP = 16.0
"""Divisor of a loss's factor after a gradient that has no range for it."""


class TrainingWeights:
    """An adapter in training: its numbers, their gradient and AdamW's moments, a buffer each.

    One buffer takes one update a step, whatever the number of targets.

    Args:
        adapter: Adapter in one buffer; it is trained in place.
        dtype: Type of the low-rank products. In another type than the adapter's, a copy of the
            adapter gets the gradients, and the update is the adapter's own.
        rate: Learning rate.
        loss_scale: Factor of the loss whose gradients are added up here.
    """

    def __init__(
        self, adapter: Adapter, dtype: torch.dtype, rate: float, *, loss_scale: float = 1.0
    ) -> None:
        if adapter.flat is None:
            raise AdaptationError("an adapter is trained in one buffer: take a `fresh_adapter`")
        self.flat = adapter.flat
        self.loss_scale = loss_scale
        """Factor of a pass's loss, by which the gradient is divided before the update."""
        self._copy: Tensor | None = None
        self.adapter = adapter
        """Adapter of the next pass; its tensors collect gradients while a training goes on."""
        shapes = [(a.shape, b.shape) for a, b in adapter.pairs]
        if dtype != self.flat.dtype:
            self._copy = self.flat.to(dtype)
            self.adapter = replace(adapter, flat=self._copy, pairs=pairs_in(self._copy, shapes))
        self.gradient = torch.zeros_like(self.used)
        """Gradient of the step in hand, in the type of the low-rank products."""
        for pair, gradients in zip(
            self.adapter.pairs, pairs_in(self.gradient, shapes), strict=True
        ):
            for half, gradient in zip(pair, gradients, strict=True):
                half.requires_grad_(True).grad = gradient
        is_fused = self.flat.device.type in _FUSED
        self._optimizer = torch.optim.AdamW([self.flat], rate, weight_decay=0.0, fused=is_fused)

    @property
    def is_finite(self) -> bool:
        """Whether each number of the gradient is one; asked only where the loss is scaled."""
        return self.loss_scale == 1.0 or bool(torch.isfinite(self.gradient).all())

    def begin_again(self) -> None:
        """Begin the step's gradient again, of a smaller loss."""
        self.gradient.zero_()
        self.loss_scale = max(1.0, self.loss_scale / _SCALE_STEP)

    @property
    def used(self) -> Tensor:
        """Numbers of the next pass, in the type of the low-rank products."""
        return self.flat if self._copy is None else self._copy

    def update(self) -> None:
        """Make a step of AdamW, and begin a new gradient."""
        self.flat.grad = self.gradient.to(self.flat.dtype)
        if self.loss_scale != 1.0:
            self.flat.grad = self.flat.grad / self.loss_scale
        self._optimizer.step()
        self.gradient.zero_()
        if self._copy is not None:
            self._copy.copy_(self.flat)

    def close(self) -> None:
        """Make the adapter a plain one again."""
        self.flat.grad = None
        for pair in self.adapter.pairs:
            for half in pair:
                half.grad = None
                half.requires_grad_(False)
