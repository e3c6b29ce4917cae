"""How much memory the embedded server takes of its machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("machine_bytes", "server_memory_mb")

_SERVER_SHARE = 1 / 8
_LEAST_SERVER_MB, _MOST_SERVER_MB = 256, 4096
"""Share of the memory for the server's buffers, and as much for a build of an index; its bounds.

A search of a million samples takes half the time where the buffers hold the index of 1.1 GB
(docs/experiments.md, "Indexes of vectors"). What is not used costs nothing.
"""


def machine_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the memory of the machine, or of the container where that is less.

    Args:
        limit: File that says how much a container may take.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = limit.read_text(encoding="utf-8").strip()
    except OSError:
        return machine
    return min(machine, int(text)) if text.isdigit() else machine  # the word "max" is no limit


def server_memory_mb(total_bytes: int) -> int:
    """Return the memory for the server's buffers in MB: an eighth of all, within bounds.

    Args:
        total_bytes: Memory of the machine or container.
    """
    fitting = int(total_bytes * _SERVER_SHARE) >> 20
    return min(max(fitting, _LEAST_SERVER_MB), _MOST_SERVER_MB)
