"""Weights of eight bits on a CPU: a token reads a quarter of the memory that it reads in float32.

Each output of a linear layer has a scale, and its weights are whole numbers from -127 to 127 times
that scale. An input becomes two whole numbers of eight bits, its value and what is left of it, so
that it keeps sixteen; the products are sums of whole numbers, by oneDNN's packed kernel. So a row's
output is the same bits whatever rows are computed beside it, however many. docs/decisions/0037 has
what else was measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from rttc_graph.errors import ConfigurationError

__all__ = ("Int8Embedding", "Int8Linear", "Int8Matrix", "int8_bytes", "keep_int8", "packs_exactly")

_MOST = 127
"""Largest whole number of eight bits that has its negative."""

_PARTS = 2 * _MOST
"""Steps into which a rest is divided: it is at most half of a whole number's step."""

_ZERO = 128
"""Number that stands for 0 in an input whose numbers have no sign."""

_BLOCK = 2**24
"""Most weights that are converted at once: 64 MB in float32."""

_MOST_OFF = 0.5
"""Largest allowed deviation of the logits, as a share of their standard deviation; rounding gives
0.01 to 0.05, weights that were taken for what they are not give 1 and more."""


class Int8Matrix:
    """Weights of eight bits [out, in], with a scale for each output; never changed.

    Args:
        weight: Weights to round, of any floating type.
    """

    def __init__(self, weight: Tensor) -> None:
        whole, self.scale = _rounded(weight)
        self.is_packed = packs_exactly()
        self.shape: tuple[int, int] = (len(whole), whole.shape[1])
        """Number of outputs and of inputs."""
        self._weight = _ops().qlinear_prepack(whole, None) if self.is_packed else whole
        self._zeros = torch.zeros(len(whole), dtype=torch.int32)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the matrix itself: copies of a layer share it."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and their scales."""
        return int(self._weight.nbytes) + self.scale.nbytes

    @property
    def whole(self) -> Tensor:
        """Whole numbers, int8 [out, in]; unpacked at each call."""
        return self._weight.to_dense().t() if self.is_packed else self._weight

    def product(self, x: Tensor) -> Tensor:
        """Return `x Wᵀ` [N, out] for an input [N, in], in its type; no gradient."""
        if not self.is_packed:
            parts = [functional.linear(x, part.to(x.dtype)) for part in _blocks(self.whole)]
            return torch.cat(parts, dim=1).mul_(self.scale)
        # A row that is not finite has a scale that is not, and so an output that is not.
        step = x.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY).div_(_MOST)  # [N, 1]
        steps = x / step
        whole = steps.round()
        rest = steps.sub_(whole).mul_(_PARTS).round_()
        given = torch.cat([whole, rest]).add_(_ZERO).to(torch.uint8)
        out = _whole_product(given, self._weight, self.scale, self._zeros)  # [2 N, out], float32
        found = torch.add(out[: len(x)], out[len(x) :], alpha=1 / _PARTS)
        return found.mul_(step).to(x.dtype)

    def differentiable_product(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return `x Wᵀ` [N, out] as a new tensor, with a gradient to the input where it wants one.

        Args:
            x: Input [N, in].
            dtype: Type of the product of the backward pass; `None` takes that of the gradient.
        """
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.product(x)
        product = cast("Any", _Product)  # torch's `apply` has no types
        return cast("Tensor", product.apply(x, self, dtype))

    def product_back(self, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `gradient W` [N, in] for a gradient [N, out], in its type.

        Args:
            gradient: Gradient of the output.
            dtype: Type of the product; whole numbers up to 127 are exact in each.
        """
        scaled = (gradient * self.scale).to(dtype)
        total, start = None, 0
        for part in _blocks(self.whole):
            more = scaled[:, start : start + len(part)] @ part.to(dtype)
            total = more if total is None else total.add_(more)
            start += len(part)
        return cast("Tensor", total).to(gradient.dtype)


class Int8Linear(nn.Linear):
    """A frozen linear layer with weights of eight bits; gradients reach its input alone.

    Its `weight` has shape and type, and no content.

    Args:
        matrix: Weights.
        bias: Bias [out], if there is one.
    """

    def __init__(self, matrix: Int8Matrix, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # the parent's would make weights of its own
        self.matrix = matrix
        self.out_features, self.in_features = matrix.shape
        shape = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device="meta")
        self.weight = nn.Parameter(shape, requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return `W x + bias` [..., out] for an input [..., in]; always a new tensor."""
        out = self.matrix.differentiable_product(input.reshape(-1, self.in_features))
        bias = cast("Tensor | None", self.bias)
        if bias is not None:
            out += bias
        return out.view(*input.shape[:-1], self.out_features)


class Int8Embedding(nn.Embedding):
    """A frozen embedding with weights of eight bits.

    Args:
        weight: Weights to round [tokens, dimension], of any floating type.
        padding_idx: Token of padding, if there is one.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, padding_idx: int | None) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        whole, scale = _rounded(weight)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors [..., dimension] of tokens [...]."""
        return self.weight[input].to(self.scale.dtype) * self.scale[input].unsqueeze(-1)


def keep_int8(model: PreTrainedModel) -> None:
    """Replace the plain linear layers of a model, its head and its embedding, by eight bits.

    Raises:
        ConfigurationError: The model computes something else than before: it takes weights from a
            layer and multiplies by them itself.
    """
    before = _logits(model)
    embedding = model.get_input_embeddings()
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    plain = [
        name
        for name, module in modules
        if type(module) is nn.Linear or (type(module) is nn.Embedding and module is embedding)
    ]
    del embedding, modules
    for name in plain:  # one by one: a matrix is dropped before the next one is rounded
        model.set_submodule(name, _with_int8(model.get_submodule(name)))
    for rest in itertools.chain(model.parameters(), model.buffers()):
        if not rest.is_meta:  # a weight may be a part of the file in memory, and keep all of it
            rest.data = rest.data.clone()
    _check(model, before)


def int8_bytes(model: nn.Module) -> int:
    """Return the bytes of those weights of a model that are no parameters of it."""
    return sum(each.matrix.nbytes for each in model.modules() if isinstance(each, Int8Linear))


def _with_int8(module: nn.Module) -> nn.Module:
    weight = cast("Tensor", module.weight)
    if isinstance(module, nn.Embedding):
        return Int8Embedding(weight, module.padding_idx)
    return Int8Linear(Int8Matrix(weight), cast("nn.Parameter | None", module.bias))


_TINY = torch.finfo(torch.float32).tiny


def _blocks(weight: Tensor) -> Sequence[Tensor]:
    """Return a matrix [out, in] in parts of so many outputs that one may be converted."""
    split = cast("Callable[[int], Sequence[Tensor]]", weight.split)
    return split(max(1, _BLOCK // weight.shape[1]))


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights as whole numbers, int8 [out, in], and the scale of each row, float32 [out]."""
    parts: list[Tensor] = []
    scales: list[Tensor] = []
    for part in _blocks(weight.detach()):
        exact = part.float()
        scale = (exact.abs().amax(dim=1) / _MOST).clamp_(min=_TINY)
        parts.append(torch.round(exact / scale[:, None]).to(torch.int8))
        scales.append(scale)
    return torch.cat(parts), torch.cat(scales)


class _Product(torch.autograd.Function):
    """`x Wᵀ`, of inputs [N, in]; nothing is kept for the gradient of W, which is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Int8Matrix, dtype: torch.dtype | None) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, dtype
        return matrix.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [gradient] = gradients
        return ctx.matrix.product_back(gradient, ctx.dtype or gradient.dtype), None, None


def _ops() -> Any:
    return cast("Any", torch.ops).onednn


def _whole_product(x: Tensor, packed: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """Return `(x - 128) Wᵀ · scale`, float32 [N, out], of whole numbers x, uint8 [N, in].

    With int8 for x, oneDNN takes its reference code: a hundred times as long.
    """
    product = _ops().qlinear_pointwise
    out = product(
        *(x, 1.0, _ZERO),  # the input, its scale and its zero
        *(packed, scale, zeros, None),  # the weights, theirs, and no bias
        *(1.0, 0, torch.float32),  # the output's
        *("none", (), ""),  # nothing is done with the sums
    )
    return cast("Tensor", out)


@cache
def packs_exactly() -> bool:
    """Tell whether the packed kernel is there and adds up the largest numbers without a loss.

    Some CPUs without instructions for eight bits add pairs of products in sixteen, and overflow.
    """
    most = torch.full((3, 96), _MOST, dtype=torch.int8)
    most[1] = -_MOST
    given = (most.short() + _ZERO).to(torch.uint8)
    try:
        packed = _ops().qlinear_prepack(most, None)
        zeros = torch.zeros(len(most), dtype=torch.int32)
        found = _whole_product(given, packed, torch.ones(len(most)), zeros)
    except (AttributeError, RuntimeError):  # torch was built without it, or this CPU lacks it
        return False
    return torch.equal(found, most.float() @ most.float().t())


def _logits(model: PreTrainedModel) -> Tensor:
    """Return what a model makes of a few tokens [7, V]."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.tensor([[token % vocabulary for token in range(1, 8)]], device=model.device)
    with torch.inference_mode():
        return cast("Tensor", model(input_ids=ids).logits[0].float())


def _check(model: PreTrainedModel, before: Tensor) -> None:
    try:
        off = float((_logits(model) - before).abs().mean() / before.std())
        reason = f"its logits are off by {off:.2f} of their standard deviation"
    except Exception as exc:  # noqa: BLE001  # whatever the model does with such weights
        off, reason = float("nan"), str(exc)
    if not off < _MOST_OFF:
        raise ConfigurationError(
            f"a model of the kind {model.config.model_type!r} cannot be kept in eight bits "
            f"({reason}): set dtype to float32 or bfloat16"
        )
