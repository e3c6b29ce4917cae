"""Where adapters go: which modules of a base model, with which shapes, under which names.

peft decides: it is let loose on a copy of the model without weights, so that its rules for
`all-linear` hold for every architecture and the base model itself is never touched.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.integrations.transformers.placed.placement import input_device, shared_parts

__all__ = (
    "Adapter",
    "AdapterLayout",
    "Target",
    "adapter_layout",
    "copy_sharing",
    "flat_adapter",
    "pairs_in",
    "stacked_pairs",
    "stacked_views",
)

_KEY_PREFIX = "base_model.model."
"""Prefix that peft puts before a module's name in `adapter_model.safetensors`."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Adapter:
    """A LoRA adapter as tensors: it adds `alpha / rank · B A x` to what a target module gives."""

    rank: int
    alpha: float
    pairs: tuple[tuple[Tensor, Tensor], ...]
    """`A` [rank, in] and `B` [out, rank] of each target from `first` on, in the order of the
    layout; float32 in training and in storage, resident in the type of the base."""
    first: int = 0
    """Index of the first target that has a pair: the layers below have no term."""
    flat: Tensor | None = None
    """Buffer that `pairs` are views of, as of `pairs_in`; `None` if the tensors are apart."""

    @property
    def scale(self) -> float:
        """Factor of the adapter's term."""
        return self.alpha / self.rank

    def on(self, device: torch.device) -> Adapter:
        """Return the adapter in one buffer on a device: itself, if it is there already."""
        flat = self.flat
        if flat is None:
            flat = torch.cat([half.reshape(-1) for a, b in self.pairs for half in (a, b.t())])
        elif flat.device == device:
            return self
        moved = flat.to(device)
        shapes = [(a.shape, b.shape) for a, b in self.pairs]
        return replace(self, flat=moved, pairs=pairs_in(moved, shapes))

    def in_type(self, dtype: torch.dtype) -> Adapter:
        """Return the adapter in one buffer of a type: itself, if it is that already."""
        whole = self.on(self.device)
        flat = whole.numbers
        if flat.dtype == dtype:
            return whole
        moved = flat.to(dtype)
        shapes = [(a.shape, b.shape) for a, b in self.pairs]
        return replace(self, flat=moved, pairs=pairs_in(moved, shapes))

    @property
    def numbers(self) -> Tensor:
        """All numbers in one buffer, of which the tensors are views if it was `flat`."""
        return cast("Tensor", self.on(self.device).flat)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.pairs[0][0].device

    def pair(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Return `A` and `B` of target number `index`, if it has them."""
        return self.pairs[index - self.first] if index >= self.first else None

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.nbytes for pair in self.pairs for tensor in pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A module that gets a LoRA term."""

    name: str
    """Name of the module in the base model's `named_modules`."""
    in_features: int
    out_features: int

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the shapes of `A` and `B`."""
        return (rank, self.in_features), (self.out_features, rank)

    @property
    def keys(self) -> tuple[str, str]:
        """Names of `A` and `B` in peft's files."""
        stem = f"{_KEY_PREFIX}{self.name}"
        return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLayout:
    """All targets of a base model: every linear layer that can have a term, but not the head.

    Left out are experts that are one tensor, routers, and what is given tokens without their rows,
    as shared experts are: there a row's term cannot be told from another's.
    """

    targets: tuple[Target, ...]
    base_name: str
    """Hub id or path of the base model, as its configuration has it."""
    fan_in_fan_out: bool
    """Whether the base keeps its weights transposed, as GPT-2 does."""
    is_all_linear: bool = True
    """Whether these are all that peft's `all-linear` names; else they are listed by name."""
    layers: tuple[tuple[str, int], ...] = ()
    """Name of each layer and index of its first target, from the lowest up; empty where the model
    does not say which modules are layers."""

    def first_adapted(self, layers: float) -> int:
        """Return the first target of the upper layers.

        Args:
            layers: How many of all, as a share above 0 and up to 1; at least one is taken.

        Raises:
            AdaptationError: It is below 1, and the model's layers are not known.
        """
        if layers == 1:
            return 0
        if not self.layers:
            raise AdaptationError(
                f"ttt_layers={layers!r}: the layers of {self.base_name!r} cannot be told apart, "
                "so all are trained or none: set it to 1"
            )
        _, first = self.layers[-max(1, round(layers * len(self.layers)))]
        return first

    def peft_config(self, *, rank: int, alpha: float, first: int = 0) -> dict[str, Any]:
        """Return the `adapter_config.json` with which peft reads an adapter.

        Args:
            rank: Rank of the adapter.
            alpha: Alpha of the adapter.
            first: Its first target; names are listed unless the targets are all linear layers.
        """
        names = [target.name for target in self.targets[first:]]
        is_listed = first > 0 or not self.is_all_linear
        config = LoraConfig(
            r=rank,
            lora_alpha=cast("int", alpha),  # peft annotates int and computes with any number
            lora_dropout=0.0,
            target_modules=names if is_listed else "all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=self.fan_in_fan_out,
            base_model_name_or_path=self.base_name or None,
            inference_mode=True,
        )
        settings = cast("dict[str, Any]", config.to_dict())  # type: ignore[no-untyped-call]  # peft
        if is_listed:
            settings["target_modules"] = names  # peft has made a set of them
        return cast("dict[str, Any]", json.loads(json.dumps(settings, sort_keys=True)))


def flat_adapter(
    layout: AdapterLayout, *, rank: int, alpha: float, first: int, device: torch.device
) -> Adapter:
    """Return an adapter of zeros whose tensors are views of one buffer: one copy moves it."""
    targets = layout.targets[first:]
    numbers = rank * sum(target.in_features + target.out_features for target in targets)
    flat = torch.zeros(numbers, device=device)
    pairs = pairs_in(flat, [target.shapes(rank) for target in targets])
    return Adapter(rank=rank, alpha=alpha, pairs=pairs, first=first, flat=flat)


def pairs_in(
    flat: Tensor, shapes: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return views of a buffer as the `A` and `B` of targets, one after the other.

    `B` [out, rank] lies transposed in the buffer: that is how both the pass of a training and that
    of an answer multiply by it (docs/experiments.md, "Eight adapters in one batch").

    Args:
        flat: Buffer of as many numbers as the pairs have.
        shapes: Shapes of `A` and `B` of each target.
    """
    sizes = [math.prod(shape) for pair in shapes for shape in pair]
    parts = iter(cast("Callable[[list[int]], Sequence[Tensor]]", flat.split)(sizes))
    return tuple((next(parts).view(*a), next(parts).view(*b[::-1]).t()) for a, b in shapes)


def stacked_pairs(adapters: Sequence[Adapter]) -> list[tuple[Tensor, Tensor]]:
    """Return copies of adapters side by side: `A` [R, rank, in] and `B` transposed [R, rank, out].

    They are views of one buffer, which takes one copy for each adapter to fill.

    Args:
        adapters: R adapters of one rank, first target, type and device.
    """
    numbers = torch.stack([adapter.numbers for adapter in adapters])
    shapes = [half.shape for a, b in adapters[0].pairs for half in (a, b.t())]
    halves = stacked_views(numbers, shapes)
    return list(zip(halves[::2], halves[1::2], strict=True))


def stacked_views(numbers: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return views [R, ...] of a buffer [R, numbers], one after the other."""
    parts = torch.split(numbers, [math.prod(shape) for shape in shapes], dim=1)
    return [part.view(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]


def adapter_layout(model: PreTrainedModel) -> AdapterLayout:
    """Ask peft which modules of `model` an adapter on all linear layers reaches.

    Takes some 0.2 s for 30 layers and a pass over a few tokens, once for each model.

    Raises:
        AdaptationError: The model has no linear layer that peft knows, or none that can have a
            term for each row.
    """
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(
        r=1, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=transposed
    )
    skeleton = copy_sharing(model, device="meta")
    try:
        with one_load_at_a_time(), warnings.catch_warnings():
            # peft has patterns for experts that it then does not find
            warnings.simplefilter("ignore", RuntimeWarning)
            injected = inject_adapter_in_model(config, skeleton, low_cpu_mem_usage=True)
    except ValueError as exc:  # peft: no target modules
        raise AdaptationError(f"peft finds no place for an adapter in the model: {exc}") from exc
    modules = cast("Iterable[tuple[str, nn.Module]]", injected.named_modules())
    lora_layers = [(name, layer) for name, layer in modules if isinstance(layer, LoraLayer)]
    apart = _keep_rows_apart(model, {name for name, _ in lora_layers})
    targets = tuple(
        Target(
            name=name,
            in_features=cast("int", layer.in_features),
            out_features=cast("int", layer.out_features),
        )
        for name, layer in lora_layers
        if name in apart
    )
    base_name = str(getattr(model.config, "name_or_path", "") or "")
    if not targets:
        names = ", ".join(sorted({name.rpartition(".")[2] for name, _ in lora_layers}))
        raise AdaptationError(
            f"no module of {base_name!r} can have an adapter of its own for each row ({names} "
            "cannot): take another base model, or answer without ttt"
        )
    return AdapterLayout(
        targets=targets,
        is_all_linear=len(targets) == len(lora_layers),
        layers=tuple(_layers(model, targets)),
        base_name=base_name,
        fan_in_fan_out=transposed,
    )


def _keep_rows_apart(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Return which modules turn [B, T, in] into [B, T, out] when the model reads two rows."""
    twin = copy_sharing(model).train(False)
    right: set[str] = set()
    wrong: set[str] = set()

    def watch(name: str) -> None:
        def look(_: nn.Module, given: tuple[Any, ...], output: object) -> None:
            x = given[0] if given else None
            shapes = [each.shape[:-1] for each in (x, output) if isinstance(each, Tensor)]
            (right if shapes == [(2, 3), (2, 3)] else wrong).add(name)

        if isinstance(module := modules.get(name), nn.Module):
            module.register_forward_hook(look)

    modules = dict(cast("Iterable[tuple[str, nn.Module]]", twin.named_modules()))
    for name in names:
        watch(name)
    with torch.inference_mode():
        twin(
            input_ids=torch.ones((2, 3), dtype=torch.long, device=input_device(model)),
            use_cache=False,
        )
    return right - wrong


def _layers(model: PreTrainedModel, targets: Sequence[Target]) -> Iterator[tuple[str, int]]:
    """Yield the layers that hold targets, with the first one of each."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in modules:
        inside = (at for at, target in enumerate(targets) if target.name.startswith(f"{name}."))
        if (
            isinstance(module, GradientCheckpointingLayer)
            and (first := next(inside, None)) is not None
        ):
            yield name, first


def copy_sharing(model: PreTrainedModel, *, device: str | None = None) -> PreTrainedModel:
    """Copy a model's modules, not its weights.

    Parameters and buffers of the copy share the memory of the original's and need no gradient;
    hooks, modes and wrapped layers of the copy are its own. Quantised weights, which are more than
    a tensor, are shared as they are.

    Args:
        model: The original; it stays as it is.
        device: `meta` for weights without content instead of shared ones.
    """
    memo = shared_parts(model)
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if type(tensor) not in (nn.Parameter, Tensor):
            memo[id(tensor)] = tensor
            continue
        shared = tensor.detach() if device is None else torch.empty_like(tensor, device=device)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(shared, requires_grad=False) if is_parameter else shared
    return copy.deepcopy(model, memo)
