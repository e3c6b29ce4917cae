"""Adapters to bytes and back: peft's `adapter_model.safetensors`, and nothing beside it.

The bytes depend on the tensors alone, which is why `alpha` and the rest of peft's configuration are
kept apart. Between a GPU and the host an adapter goes in one copy each way, through memory that the
driver need not copy once more (pinned): its tensors are brought into their order on the GPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rttc_graph.errors import UnusableAdapterError
from rttc_graph.integrations.lora.adapter_layout import (
    Adapter,
    AdapterLayout,
    flat_adapter,
)
from rttc_graph.protocols import TrainedAdapter

__all__ = ("PEFT_CONFIG", "from_bytes", "to_bytes", "write_peft_folder")

PEFT_CONFIG = "peft_config"
"""Key of an adapter's provenance that holds the content of peft's `adapter_config.json`."""

_HEADER_UNIT = 8
"""Bytes of the header's length, and the unit to which safetensors pads it."""


def to_bytes(adapter: Adapter, layout: AdapterLayout) -> bytes:
    """Return the adapter as safetensors with peft's names; the same tensors give the same bytes."""
    halves = {
        key: half
        for target, pair in zip(layout.targets[adapter.first :], adapter.pairs, strict=True)
        for key, half in zip(target.keys, pair, strict=True)
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = torch.empty(sum(half.numel() for half in halves.values()), device=adapter.device)
    at = 0
    for key, half in sorted(halves.items()):  # the order in which safetensors writes them
        end = at + half.numel()
        numbers[at:end].view(half.shape).copy_(half)
        offsets = [at * numbers.itemsize, end * numbers.itemsize]
        header[key] = {"dtype": "F32", "shape": list(half.shape), "data_offsets": offsets}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_UNIT)
    content = memoryview(cast("Any", _on_host(numbers)).numpy()).cast("B")
    return b"".join((len(text).to_bytes(_HEADER_UNIT, "little"), text, content))


def _on_host(numbers: Tensor) -> Tensor:
    """Return a buffer in the host's memory, by one copy into pinned memory from a GPU."""
    if numbers.device.type == "cpu":
        return numbers
    is_pinned = numbers.device.type == "cuda"
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=is_pinned)
    return host.copy_(numbers)


def from_bytes(
    weights: bytes, config: object, layout: AdapterLayout, *, device: torch.device
) -> Adapter:
    """Read an adapter for a base model.

    Args:
        weights: Bytes from `to_bytes`.
        config: Content of peft's `adapter_config.json`.
        layout: Layout of the base model.
        device: Where the tensors go.

    Raises:
        UnusableAdapterError: The bytes are damaged, or names, shapes or numbers do not fit the
            base.
    """
    rank, alpha = _rank_and_alpha(config)
    tensors = _tensors(weights)
    first = _first_target(config, layout)
    wanted = {
        key: shape
        for target in layout.targets[first:]
        for key, shape in zip(target.keys, target.shapes(rank), strict=True)
    }
    _check_names(tensors, wanted)
    for key, shape in wanted.items():
        _check_tensor(key, tensors[key], shape)
    halves = [tensors[key].float().reshape(-1) for key in wanted]
    numbers = sum(half.numel() for half in halves)
    lying = torch.empty(numbers, pin_memory=device.type == "cuda")
    torch.cat(halves, out=lying)
    lying = lying.to(device, non_blocking=True)
    if not bool(torch.isfinite(lying).all()):
        _complain_of_numbers(tensors)
    adapter = flat_adapter(layout, rank=rank, alpha=alpha, first=first, device=device)
    parts = iter(torch.split(lying, [half.numel() for half in halves]))
    for pair in adapter.pairs:
        for half in pair:
            half.copy_(next(parts).view(half.shape))
    return adapter


def write_peft_folder(adapter: TrainedAdapter, folder: Path) -> None:
    """Write an adapter so that `peft.PeftModel.from_pretrained` reads it; the folder is made.

    Raises:
        UnusableAdapterError: The provenance lacks peft's configuration, or the bytes are damaged.
    """
    config = adapter.provenance.get(PEFT_CONFIG)
    _rank_and_alpha(config)
    tensors = _tensors(adapter.weights)
    for key, tensor in tensors.items():
        _check_tensor(key, tensor, tuple(tensor.shape))
    _complain_of_numbers(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(adapter.weights)


def _tensors(weights: bytes) -> dict[str, Tensor]:
    try:
        return load(weights)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as exc:
        raise UnusableAdapterError(f"the adapter's bytes are damaged: {exc}") from exc


def _rank_and_alpha(config: object) -> tuple[int, float]:
    if not isinstance(config, Mapping):
        raise UnusableAdapterError(
            f"the adapter's provenance lacks {PEFT_CONFIG!r}: train it again"
        )
    peft_config = cast("Mapping[str, Any]", config)
    rank, alpha = peft_config.get("r"), peft_config.get("lora_alpha")
    if (
        not isinstance(rank, int)
        or rank < 1
        or not isinstance(alpha, int | float)
        or not math.isfinite(alpha)
    ):
        raise UnusableAdapterError(
            f"the adapter has r={rank!r} and lora_alpha={alpha!r}: train it again"
        )
    return rank, float(alpha)


def _first_target(config: object, layout: AdapterLayout) -> int:
    """Return from which target on an adapter has pairs, by peft's configuration."""
    names = cast("Mapping[str, Any]", config).get("target_modules")
    if not isinstance(names, list):
        return 0  # all linear layers
    return max(0, len(layout.targets) - len(cast("list[str]", names)))


def _check_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, int]]) -> None:
    if odd := sorted(tensors.keys() ^ wanted.keys()):
        side = "lacks" if odd[0] in wanted else "has"
        raise UnusableAdapterError(
            f"the adapter does not fit the base model: it {side} the tensor {odd[0]!r}"
        )


def _check_tensor(key: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise UnusableAdapterError(
            f"the adapter does not fit the base model: {key!r} has shape {tuple(tensor.shape)}, "
            f"the base needs {shape}"
        )
    if not tensor.is_floating_point():
        raise UnusableAdapterError(f"the adapter is damaged: {key!r} holds {tensor.dtype}")


def _complain_of_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise, with the name of the first tensor that has a number that is not finite, if one has."""
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UnusableAdapterError(
                f"the adapter is damaged: {key!r} has numbers that are not finite"
            )
