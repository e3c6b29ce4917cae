"""Nodes that a cluster has lost, for calls that nobody ends when theirs is among them."""

from __future__ import annotations

import asyncio
import math
import time

from rttc_graph.integrations.ray_serve.ray_library import ray_library

__all__ = ("LostNodes",)


class LostNodes:
    """When a node was last found to be lost; it is looked for when somebody asks."""

    def __init__(self) -> None:
        self._gone = _gone()
        self._noticed_at = -math.inf

    async def since(self, began: float) -> bool:
        """Look, and tell whether a loss was noticed after a reading of `time.monotonic()`."""
        gone = await asyncio.to_thread(_gone)
        if gone - self._gone:
            self._gone |= gone
            self._noticed_at = time.monotonic()
        return self._noticed_at > began


def _gone() -> set[str]:
    return {str(one["NodeID"]) for one in ray_library().nodes() if not one["Alive"]}
