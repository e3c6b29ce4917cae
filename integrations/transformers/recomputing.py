"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch.utils import checkpoint as untyped_checkpointing

__all__ = ("recomputed",)

recomputed = cast("Callable[..., Any]", cast("Any", untyped_checkpointing).checkpoint)
"""`torch.utils.checkpoint.checkpoint`, which has no types of its own."""
