"""Adapters to bytes and back: peft's `adapter_model.safetensors`, and nothing beside it.

The bytes depend on the tensors alone (safetensors writes several metadata entries in random
order, so there is one), which is why `alpha` and the rest of peft's configuration are kept apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
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


def to_bytes(adapter: Adapter, layout: AdapterLayout) -> bytes:
    """Return the adapter as safetensors with peft's names; the same tensors give the same bytes."""
    tensors: dict[str, Tensor] = {}
    pairs = adapter.on(torch.device("cpu")).pairs  # by one copy instead of hundreds
    for target, pair in zip(layout.targets[adapter.first :], pairs, strict=True):
        tensors.update(zip(target.keys, (half.contiguous() for half in pair), strict=True))
    return save(tensors, metadata={"format": "pt"})


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
    adapter = flat_adapter(layout, rank=rank, alpha=alpha, first=first, device=torch.device("cpu"))
    for target, pair in zip(layout.targets[first:], adapter.pairs, strict=True):
        for key, half in zip(target.keys, pair, strict=True):
            half.copy_(tensors[key])
    return adapter.on(device)


def write_peft_folder(adapter: TrainedAdapter, folder: Path) -> None:
    """Write an adapter so that `peft.PeftModel.from_pretrained` reads it; the folder is made.

    Raises:
        UnusableAdapterError: The provenance lacks peft's configuration, or the bytes are damaged.
    """
    config = adapter.provenance.get(PEFT_CONFIG)
    _rank_and_alpha(config)
    for key, tensor in _tensors(adapter.weights).items():
        _check_tensor(key, tensor, tuple(tensor.shape))
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
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise UnusableAdapterError(
            f"the adapter is damaged: {key!r} has numbers that are not finite"
        )
