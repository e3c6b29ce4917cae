"""Memory of this machine or, where that is less, of the container that this process runs in.

Linux alone tells it.
"""

from __future__ import annotations

import math
from pathlib import Path

__all__ = ("free_machine_bytes", "total_machine_bytes")

_GROUP = "sys/fs/cgroup"


def free_machine_bytes(root: Path = Path("/")) -> float:
    """Return what the kernel could give without swapping; infinite where nobody says.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    group = root / _GROUP
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    cached = _numbers(group / "memory.stat").get("inactive_file", 0.0)
    left = math.inf if limit is None or used is None else limit - used + cached
    return min(_of_machine(root, "MemAvailable"), left)


def total_machine_bytes(root: Path = Path("/")) -> float:
    """Return the memory that there is, free or not; infinite where nobody says.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    limit = _number(root / _GROUP / "memory.max")
    return min(_of_machine(root, "MemTotal"), math.inf if limit is None else limit)


def _of_machine(root: Path, name: str) -> float:
    return _numbers(root / "proc/meminfo").get(name, math.inf) * 1024  # kB


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
