"""How much memory a device has left, and how much of it rows and adapters may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

__all__ = (
    "DeviceSizes",
    "device_sizes",
    "free_bytes",
    "free_on_all",
    "position_bytes",
    "recorded_bytes",
)

_ROWS = {"cuda": 64}
"""Most rows of a batch by kind of device, else 16: on an H100 a token of 64 rows of an 8B model
took 27 ms, one of a single row 23."""

_CPU_ROWS = 16
_CPU_POSITIONS = 32_768
_CPU_ADAPTERS = 512 * 2**20
"""Sizes beyond which a CPU gains nothing, or has other uses for its memory."""

_POSITIONS_SHARE = 1 / 4
_ADAPTERS_SHARE = 1 / 8
_TRAININGS_SHARE = 1 / 8
"""Shares of the free memory; a training's passes take half of what is then left."""

_COMMON_POOL = (0, 0)
"""Number of torch's memory that any pass may use."""

_LEAST_POSITIONS = 2048
_LEAST_ADAPTERS = 16 * 2**20
_LEAST_TRAININGS = 2 * 2**30
"""One training of rank 256 for SmolLM2-135M takes 1.25 GB, six of rank 8 for an 8B model 2 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSizes:
    """Sizes that fit a device, where no setting says otherwise."""

    rows: int
    """Most rows that are generated together."""
    positions: int
    """Most positions in the cache of one batch, padding included."""
    adapter_bytes: int
    """Memory for resident adapters."""
    training_bytes: int = _LEAST_TRAININGS
    """Memory for weights, gradients and moments of the trainings in hand."""
    device: str = "cpu"
    """Kind of device, as torch names it."""
    item_bytes: int = 4
    """Bytes of a number of the model, and so of a resident adapter."""


def device_sizes(kind: str, *, free: float, position: int, item: int = 4) -> DeviceSizes:
    """Return the sizes for a device.

    Args:
        kind: Kind of device, as torch names it.
        free: Free memory beside the model, in bytes; may be infinite.
        position: Memory of keys and values of a position, in bytes, as of `position_bytes`.
        item: Bytes of a number of the model.
    """
    is_gpu = kind == "cuda" and math.isfinite(free)
    positions = free * _POSITIONS_SHARE / max(1, position)
    adapters = free * _ADAPTERS_SHARE
    trainings = free * _TRAININGS_SHARE if is_gpu else 0
    if not is_gpu:
        positions = min(positions, _CPU_POSITIONS)
        adapters = min(adapters, _CPU_ADAPTERS)
    return DeviceSizes(
        rows=_ROWS.get(kind, _CPU_ROWS),
        positions=int(max(positions, _LEAST_POSITIONS)),
        adapter_bytes=int(max(adapters, _LEAST_ADAPTERS)),
        training_bytes=int(max(trainings, _LEAST_TRAININGS)),
        device=kind,
        item_bytes=item,
    )


def position_bytes(config: Any, item: int) -> int:
    """Return the memory of keys and values of a position; an upper bound for sliding attention.

    Args:
        config: Configuration of a text model.
        item: Bytes of a number.
    """
    heads = max(1, _whole(config, "num_attention_heads"))
    size = _whole(config, "head_dim") or _whole(config, "hidden_size") // heads
    shared = _whole(config, "num_key_value_heads") or heads
    return 2 * _whole(config, "num_hidden_layers") * shared * size * item


def _whole(config: Any, name: str) -> int:
    """Return a number of a configuration; 0 where it has none, or one for each layer."""
    found: object = getattr(config, name, None)
    return found if isinstance(found, int) else 0


def free_bytes(device: torch.device, *, root: Path = Path("/")) -> float:
    """Return the memory that a pass on the device could still take; infinite where nobody says.

    On a GPU what the driver has, and what torch has taken from it and does not use, recorded passes
    left out. On Linux what the kernel could give without swapping, within the limit of the
    container.

    Args:
        device: Device of the model.
        root: Folder that holds `proc` and `sys`.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused - recorded_bytes(device))
    if device.type != "cpu":
        return math.inf
    machine = _numbers(root / "proc/meminfo").get("MemAvailable", math.inf) * 1024
    group = root / "sys/fs/cgroup"
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    cached = _numbers(group / "memory.stat").get("inactive_file", 0.0)
    return min(machine, math.inf if limit is None or used is None else limit - used + cached)


def recorded_bytes(device: torch.device) -> int:
    """Return the memory of a GPU that recorded passes keep for each other; 0 on other devices."""
    cuda = cast("Any", torch.cuda)  # torch has no types for it
    if device.type != "cuda" or cuda.get_allocator_backend() != "native":
        return 0  # the driver's own allocator tells nothing
    index = cast("int | None", device.index)
    number = cuda.current_device() if index is None else index
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in cuda.memory_snapshot()
        if segment["device"] == number and segment["segment_pool_id"] != _COMMON_POOL
    )


def free_on_all(devices: Sequence[torch.device]) -> float:
    """Return the memory that work spread evenly over devices may take.

    That is what the fullest of them has left, times their number.
    """
    return len(devices) * min(free_bytes(device) for device in devices)


def _numbers(path: Path) -> dict[str, float]:
    """Read lines of a name and a number; nothing where there is no such file."""
    lines = (line.replace(":", "").split() for line in _text(path).splitlines())
    return {words[0]: float(words[1]) for words in lines if len(words) > 1}


def _number(path: Path) -> float | None:
    text = _text(path).strip()
    return float(text) if text.isdigit() else None  # the word "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
