"""On which devices a model's parts lie, where accelerate has placed them on several.

accelerate moves what a part is given to the part's device, and what the whole model returns back to
where its input was; keys and values stay with their layers. Parts for which there is no room on
a GPU may lie in the machine's memory or on disk: their weights are fetched for each pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import mkdtemp
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from rttc_graph.errors import ConfigurationError

__all__ = (
    "DeviceMap",
    "devices_of",
    "input_device",
    "is_offloaded",
    "is_placed",
    "place_of",
    "placement_options",
    "shared_parts",
)

DeviceMap = str | Mapping[str, int | str]
"""A strategy of accelerate, or the device of each part of a model, by the part's name."""

_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
_FETCHED = ("cpu", "disk")
"""Where parts lie that are fetched for each pass, unless the model computes there."""


def placement_options(
    device_map: DeviceMap | None,
    max_memory: Mapping[str, int | str] | None,
    *,
    dtype: str,
) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` has to be told to place a model.

    Parts that find no room in memory are written to a new folder, `offload_folder`.

    Args:
        device_map: Strategy or devices; nothing without it.
        max_memory: Most memory by device, as `{"0": "40GiB", "cpu": "60GiB"}`.
        dtype: Type of the weights, as the user gave it.

    Raises:
        ConfigurationError: There is no such strategy, memory is given without one, or the weights
            are of a type that is for one CPU.
    """
    if not device_map:
        if max_memory:
            raise ConfigurationError(
                f"max_memory={dict(max_memory)!r} says how a model is placed, and device_map is "
                "not set: set device_map to auto, or leave max_memory out"
            )
        return {}
    if isinstance(device_map, str) and device_map not in _STRATEGIES:
        raise ConfigurationError(
            f"device_map={device_map!r} is unknown: use {', '.join(_STRATEGIES)}, or set device to "
            "one device"
        )
    if dtype == "int8" and not torch.cuda.is_available():
        raise ConfigurationError(
            "device_map places weights of a GPU's types, and dtype='int8' on a CPU has one of its "
            "own: leave device_map out, or use nf4"
        )
    placed: Any = device_map if isinstance(device_map, str) else dict(device_map)
    memory = {_device_key(key): most for key, most in (max_memory or {}).items()}
    return {
        "device_map": placed,
        "max_memory": memory or None,
        "offload_folder": mkdtemp(prefix="rttc-offload-"),
    }


def is_placed(model: nn.Module) -> bool:
    """Tell whether a model's parts lie on several devices, or are fetched for each pass."""
    return len(set(_map_of(model).values())) > 1 or is_offloaded(model)


def is_offloaded(model: nn.Module) -> bool:
    """Tell whether some of a model's weights are fetched for each pass."""
    return any(parameter.device.type == "meta" for parameter in model.parameters())


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device that a model is given its tokens on, and returns its logits on."""
    hook: Any = getattr(model, "_hf_hook", None)
    return model.device if hook is None else _device(hook.execution_device)


def devices_of(model: PreTrainedModel) -> tuple[torch.device, ...]:
    """Return the devices that a model computes on, the first of them its input's."""
    first = input_device(model)
    others = {_computing(place, first) for place in _map_of(model).values()} - {first}
    return (first, *sorted(others, key=str))


def place_of(model: PreTrainedModel, name: str) -> torch.device:
    """Return the device that a module computes on.

    Args:
        model: The whole model.
        name: Name of the module in `named_modules`.
    """
    first = input_device(model)
    placed = _map_of(model)
    while name not in placed and name:
        name = name.rpartition(".")[0]
    return _computing(placed[name], first) if name in placed else first


def shared_parts(model: nn.Module) -> dict[int, Any]:
    """Return by `id` what a copy of the modules is to share with them, beside weights and buffers.

    That is accelerate's hooks with what they hold, and where bitsandbytes keeps weights of eight
    bits: a layer takes them over from its parameter at its first pass, after which no other layer
    finds them there.
    """
    found: dict[int, Any] = {}
    for module in model.modules():
        layer = cast("Any", module)
        if type(module).__name__ == "Linear8bitLt":
            if layer.weight.CB is not None:
                layer.init_8bit_state()
            found[id(layer.state)] = layer.state
        if (hook := getattr(layer, "_hf_hook", None)) is not None:
            found[id(hook)] = hook
    return found


def _map_of(model: nn.Module) -> Mapping[str, int | str | torch.device]:
    return cast("Mapping[str, Any]", getattr(model, "hf_device_map", None) or {})


def _computing(place: int | str | torch.device, first: torch.device) -> torch.device:
    """Return where a part computes that lies in a place."""
    is_fetched = str(place) == "disk" or (str(place) in _FETCHED and first.type != "cpu")
    return first if is_fetched else _device(place)


def _device(place: int | str | torch.device) -> torch.device:
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def _device_key(name: str) -> int | str:
    """Return a device as accelerate names it: GPUs by number."""
    number = name.removeprefix("cuda:")
    return int(number) if number.isdigit() else name
