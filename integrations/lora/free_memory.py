"""How much memory a device has left, to choose what a pass keeps and what it computes twice."""

from __future__ import annotations

import math
from pathlib import Path

import torch

__all__ = ("free_bytes",)


def free_bytes(device: torch.device, *, root: Path = Path("/")) -> float:
    """Return the memory that a pass on the device could still take; infinite where nobody says.

    On a GPU what the driver has, and what torch has taken from it and does not use. On Linux what
    the kernel could give without swapping, within the limit of the container.

    Args:
        device: Device of the model.
        root: Folder that holds `proc` and `sys`.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return math.inf
    machine = _numbers(root / "proc/meminfo").get("MemAvailable", math.inf) * 1024
    group = root / "sys/fs/cgroup"
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    cached = _numbers(group / "memory.stat").get("inactive_file", 0.0)
    return min(machine, math.inf if limit is None or used is None else limit - used + cached)


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
