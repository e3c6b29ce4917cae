"""How long this process wanted to compute and could not, because others had the processors."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ("starved_seconds",)


def starved_seconds() -> float:
    """Return the time that the threads of this process have waited for a processor, added up.

    Sleeping and waiting for a socket do not count, so what is left of the wall time without it is
    how long something took by itself. 0 where the kernel does not say it.
    """
    waited = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended meanwhile
            waited += int(thread.read_text().split()[1])
    return waited / 1e9
