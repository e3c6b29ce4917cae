"""The forward and backward pass of a target with one adapter in every row, for training.

The product with the frozen weights is in the type that is fast on the device, and the two low-rank
products in the adapter's type (docs/experiments.md, "Products in bfloat16"). Nothing here is a
Python function of autograd, beside the product with weights of eight bits: a backward pass runs
without the interpreter (docs/experiments.md, "Turns of the interpreter").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.row_terms import FollowingAdapter, add_product
from rttc_graph.integrations.transformers.int8_weights import Int8Linear, Int8Matrix

__all__ = ("FrozenLinear", "TrainingTerms", "frozen_bytes")


@dataclass(frozen=True, slots=True, eq=False)
class FrozenLinear:
    """Frozen weights of a linear layer, and the type that a training multiplies in."""

    weight: Tensor
    """Weights [out, in], in the type of the product; without content if they have eight bits."""
    bias: Tensor | None
    """Bias [out] of the layer itself."""
    matrix: Int8Matrix | None = None
    """Weights of eight bits."""
    converted_to: torch.dtype = torch.float32
    """Type that weights of eight bits are converted to for the backward pass."""

    @classmethod
    def from_module(cls, module: nn.Module, dtype: torch.dtype | None) -> FrozenLinear | None:
        """Return a layer that multiplies in `dtype`; `None` if it is no plain linear layer.

        Args:
            module: Layer; those of bitsandbytes, those with transposed weights and those whose
                weights are fetched for each pass run unchanged.
            dtype: Type of the product; `None` takes that of the weights, without a copy. Weights of
                eight bits are never copied: they multiply as they are, and are converted a part at
                a time for the backward pass.
        """
        if type(module) is Int8Linear:
            return cls(module.weight, module.bias, module.matrix, dtype or torch.float32)
        if type(module) is not nn.Linear or module.weight.device.type == "meta":
            return None
        return cls(module.weight.detach().to(dtype or module.weight.dtype), module.bias)

    def product(self, given: TermInput) -> Tensor:
        """Return `W x + bias` [N, out] in the type of the input, as a new tensor."""
        x = given.flat
        if self.matrix is not None:
            out = self.matrix.differentiable_product(x, self.converted_to)
        elif self.weight.dtype == x.dtype:
            return functional.linear(x, self.weight, self.bias)
        else:
            out = functional.linear(given.in_type(self.weight.dtype), self.weight).to(x.dtype)
        return out if self.bias is None else out.add_(self.bias)

    def __call__(
        self,
        x: Tensor,
        pair: tuple[Tensor, Tensor] | None,
        scale: float,
        given: TermInput | None = None,
    ) -> Tensor:
        """Return `W x + bias + scale · B A x` in the type of `x`, with gradients to x, A and B.

        Args:
            x: Input [..., in].
            pair: `A` and `B`, if the layer has a term.
            scale: Factor of the term, `alpha / rank`.
            given: Input for the term, where another layer has made something of it already.
        """
        given = given or TermInput(x)
        out = self.product(given)
        if pair is not None:
            _add_term(out, given, pair, scale)
        return out.view(*x.shape[:-1], -1)


class TermInput:
    """Input of one layer or several, and what is made of it once for all of them.

    Args:
        x: Input [..., in].
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.flat = x.flatten(0, -2)
        """The input [N, in]."""
        self._types: dict[torch.dtype, Tensor] = {x.dtype: self.flat}
        self._columns: Tensor | None = None

    def in_type(self, dtype: torch.dtype) -> Tensor:
        """Return the input [N, in] in a type."""
        found = self._types.get(dtype)
        if found is None:
            found = self._types[dtype] = self.flat.to(dtype)
        return found

    def columns(self, dtype: torch.dtype) -> Tensor:
        """Return the input transposed [in, N], in the type of the low-rank products."""
        if self._columns is None or self._columns.dtype != dtype:
            self._columns = self.in_type(dtype).t()
        return self._columns


def frozen_bytes(modules: Iterable[nn.Module], dtype: torch.dtype) -> int:
    """Return the memory that the copies of `FrozenLinear.from_module` take for these layers."""
    return sum(
        module.weight.numel() * dtype.itemsize
        for module in modules
        if type(module) is nn.Linear
        and module.weight.dtype != dtype
        and module.weight.device.type != "meta"
    )


class TrainingTerms:
    """One adapter in all rows of a batch; gradients reach its tensors.

    Args:
        adapter: Adapter in training.
        layers: Layer of each target in the layout; `None` where it is no plain linear layer.
        check: Called at each target on the way forward; raises where the pass is to end now.
    """

    def __init__(
        self,
        adapter: Adapter | FollowingAdapter,
        layers: list[FrozenLinear | None],
        check: Callable[[], None] | None = None,
    ) -> None:
        self._adapter = adapter
        self._layers = layers
        self._check = check or _nothing
        self._given: TermInput | None = None

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with the trained term; see `RowTerms.output`."""
        self._check()
        pair, layer = self._adapter.pair(index), self._layers[index]
        if pair is None and layer is None:
            return forward(x)
        given = self._given
        if given is None or given.x is not x:  # q, k and v have one input, as gate and up have
            given = self._given = TermInput(x)
        if layer is not None:
            return layer(x, pair, self._adapter.scale, given)
        out = forward(x)
        if pair is None:
            return out
        a, b = pair
        low = torch.mm(a, given.columns(a.dtype))  # [rank, N]
        return out + (low.t() @ b.t() * self._adapter.scale).to(out.dtype).view_as(out)


def _add_term(out: Tensor, given: TermInput, pair: tuple[Tensor, Tensor], scale: float) -> None:
    """Add `scale · B A x` to an output [N, out] in place.

    All is torch's own operations, whose backward pass needs no interpreter: a training's thread
    gives it up for that long instead of fetching it back at each layer. Low-rank products are
    computed with the rank as first dimension, forward and backward: MKL takes a third of the time
    for `[8, 1536] · [1536, 72]` that it takes for `[72, 1536] · [1536, 8]`.
    """
    a, b = pair
    low = torch.mm(a, given.columns(a.dtype))  # [rank, N]
    add_product(out, low.t(), b.t(), scale)


def _nothing() -> None:
    """Let the pass go on."""
