"""The forward and backward pass of a target with one adapter in every row, for training.

A target is one node of autograd: the product with the frozen weights, in the type that is fast on
the device, and the two low-rank products, in the adapter's type. On a CPU that multiplies in
bfloat16, a training of SmolLM2-135M takes two thirds of the time of float32 with a node for each
operation (docs/experiments.md, "Products in bfloat16").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.row_terms import add_product
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
            module: Layer; those of four bits, and those with transposed weights, run unchanged.
            dtype: Type of the product; `None` takes that of the weights, without a copy. Weights of
                eight bits are never copied: they multiply as they are, and are converted a part at
                a time for the backward pass.
        """
        if type(module) is Int8Linear:
            return cls(module.weight, module.bias, module.matrix, dtype or torch.float32)
        if type(module) is not nn.Linear:
            return None
        return cls(module.weight.detach().to(dtype or module.weight.dtype), module.bias)

    def product(self, x: Tensor) -> Tensor:
        """Return `x Wᵀ` [N, out] for an input [N, in], in the type of the input."""
        if self.matrix is not None:
            return self.matrix.product(x)
        return functional.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)

    def product_back(self, gradient: Tensor) -> Tensor:
        """Return `gradient W` [N, in] for a gradient [N, out], in the type of the gradient."""
        if self.matrix is not None:
            return self.matrix.product_back(gradient, self.converted_to)
        return (gradient.to(self.weight.dtype) @ self.weight).to(gradient.dtype)

    def __call__(
        self,
        x: Tensor,
        pair: tuple[Tensor, Tensor] | None,
        scale: float,
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        """Return `W x + bias + scale · B A x` in the type of `x`, with gradients to x, A and B.

        Args:
            x: Input [..., in].
            pair: `A` and `B`, if the layer has a term.
            scale: Factor of the term, `alpha / rank`.
            check: Called when the backward pass reaches this layer.
        """
        a, b = pair or (None, None)
        product = cast("Any", _Product)  # torch's `apply` has no types
        return cast("Tensor", product.apply(x, self, a, b, scale, check))


def frozen_bytes(modules: Iterable[nn.Module], dtype: torch.dtype) -> int:
    """Return the memory that the copies of `FrozenLinear.from_module` take for these layers."""
    return sum(
        module.weight.numel() * dtype.itemsize
        for module in modules
        if type(module) is nn.Linear and module.weight.dtype != dtype
    )


class TrainingTerms:
    """One adapter in all rows of a batch; gradients reach its tensors.

    Args:
        adapter: Adapter in training.
        layers: Layer of each target in the layout; `None` where it is no plain linear layer.
        check: Called at each target, forward and backward; raises where the pass is to end now.
    """

    def __init__(
        self,
        adapter: Adapter,
        layers: list[FrozenLinear | None],
        check: Callable[[], None] | None = None,
    ) -> None:
        self._adapter = adapter
        self._layers = layers
        self._check = check or _nothing

    def output(
        self, index: int, name: str, x: Tensor, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the target's output with the trained term; see `RowTerms.output`."""
        self._check()
        pair, layer = self._adapter.pair(index), self._layers[index]
        if layer is not None:
            return layer(x, pair, self._adapter.scale, self._check)
        out = forward(x)
        if pair is None:
            return out
        a, b = pair
        low = x.reshape(-1, x.shape[-1]).to(a.dtype) @ a.t()  # [B·T, rank]
        return out + (low @ b.t() * self._adapter.scale).to(out.dtype).view_as(out)


class _Product(torch.autograd.Function):
    """`W x + bias + scale · B A x`; nothing is kept for the gradient of W, which is frozen.

    N tokens, inputs `x` [N, in], `A` [rank, in], `B` [out, rank]. Low-rank products are computed
    with the rank as first dimension: MKL takes a third of the time for `[8, 1536] · [1536, 72]`
    that it takes for `[72, 1536] · [1536, 8]`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: FrozenLinear,
        a: Tensor | None,
        b: Tensor | None,
        scale: float,
        check: Callable[[], None] | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # [N, in]
        out = layer.product(flat)
        if layer.bias is not None:
            out += layer.bias
        low = None
        if a is not None and b is not None:
            low = a @ flat.to(a.dtype).t()  # [rank, N]
            add_product(out, low.t(), b.t(), scale)
        ctx.save_for_backward(flat if low is not None else None, low, a, b)
        ctx.layer, ctx.scale, ctx.shape = layer, scale, x.shape
        ctx.check = check or _nothing
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.check()
        flat, low, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])  # [N, out]
        of_x = of_a = of_b = lows = None
        if low is not None:
            exact = gradient.to(b.dtype)
            lows = (b.t() @ exact.t()).mul_(ctx.scale)  # [rank, N]
            of_a = lows @ flat.to(a.dtype)  # [rank, in]
            of_b = (low @ exact).mul_(ctx.scale).t()  # [out, rank]
        if ctx.needs_input_grad[0]:
            of_x = ctx.layer.product_back(gradient)  # [N, in]
            if lows is not None:
                add_product(of_x, lows.t(), a, 1.0)
            of_x = of_x.view(ctx.shape)
        return of_x, None, of_a, of_b, None, None


def _nothing() -> None:
    """Let the pass go on."""
