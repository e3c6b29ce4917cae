"""The low-rank terms of a pass in which neighbouring rows have the same adapter in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rttc_graph.integrations.lora.adapter_layout import Adapter, stacked_views
from rttc_graph.integrations.lora.training_terms import FrozenLinear, TermInput
from rttc_graph.integrations.lora.training_weights import TrainingWeights

__all__ = ("AdapterStack", "JointTerms")


class AdapterStack:
    """Adapters of one shape side by side, with their gradients: the copies that a pass works on.

    The memory stays where it is, so that a captured pass finds it again.

    Args:
        like: Adapter whose rank, alpha and first target all have.
        members: Number of adapters, M.
        dtype: Type of the low-rank products.
    """

    def __init__(self, like: Adapter, *, members: int, dtype: torch.dtype) -> None:
        shapes = [half.shape for a, b in like.pairs for half in (a, b.t())]
        sizes = [math.prod(shape) for shape in shapes]
        device = like.pairs[0][0].device
        self.members = members
        self.first = like.first
        self.scale = like.scale
        self.numbers = torch.zeros((members, sum(sizes)), dtype=dtype, device=device)
        self.gradient = torch.zeros_like(self.numbers)
        self.halves = [half.requires_grad_(True) for half in stacked_views(self.numbers, shapes)]
        """`A` and `B` of each target, one after the other; a pass's gradients are taken of them."""
        self._gradients = stacked_views(self.gradient, shapes)

    def pair(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Return `A` [M, rank, in] and `B` transposed [M, rank, out] of a target, if there are."""
        at = 2 * (index - self.first)
        return (self.halves[at], self.halves[at + 1]) if at >= 0 else None

    def load(self, given: Sequence[TrainingWeights]) -> None:
        """Take the adapters of a pass in; places that are left over have adapters of zeros."""
        with torch.no_grad():
            for place, weights in zip(self.numbers, given, strict=False):
                place.copy_(weights.used)
            self.numbers[len(given) :].zero_()

    def keep(self, found: Sequence[Tensor | None]) -> None:
        """Keep the gradients of `halves`; `None` for what a pass had no use for."""
        for gradient, new in zip(self._gradients, found, strict=True):
            gradient.zero_() if new is None else gradient.copy_(new)

    def hand_out(self, given: Sequence[TrainingWeights]) -> None:
        """Add the gradients of a pass to those of the trainings."""
        for gradient, weights in zip(self.gradient, given, strict=False):
            weights.gradient.add_(gradient)


@dataclass(slots=True, eq=False)
class JointTerms:
    """Rows of M adapters, as many of each, in the order of the stack; gradients reach the stack."""

    stack: AdapterStack
    layers: list[FrozenLinear | None]
    """Layer of each target in the layout; `None` where it is no plain linear layer."""
    check: Callable[[], None] | None
    """Called at each target on the way forward; raises where the pass is to end now."""
    given: TermInput | None = None

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with each row's term; see `RowTerms.output`."""
        if self.check is not None:
            self.check()
        pair, layer = self.stack.pair(index), self.layers[index]
        if pair is None and layer is None:
            return forward(x)
        if self.given is None or self.given.x is not x:  # q, k and v have one input
            self.given = TermInput(x)
        out = forward(x).flatten(0, -2) if layer is None else layer.product(self.given)
        if pair is not None:
            out = self._with_term(out, self.given, pair)
        return out.view(*x.shape[:-1], -1)

    def _with_term(self, out: Tensor, given: TermInput, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Return an output [N, out] plus `scale · B A x` of each adapter's rows."""
        a, b = pair
        columns = given.in_type(a.dtype).view(self.stack.members, -1, a.shape[2]).transpose(1, 2)
        low = torch.bmm(a, columns)  # [M, rank, N / M]
        into = out.view(self.stack.members, -1, b.shape[2])  # [M, N / M, out]
        if out.dtype == b.dtype:
            return torch.baddbmm(into, low.transpose(1, 2), b, alpha=self.stack.scale)
        term = torch.bmm(low.transpose(1, 2), b)
        return into.add(term.to(out.dtype), alpha=self.stack.scale)
