"""The logistic function."""

from __future__ import annotations

import math


def sigmoid(value: float) -> float:
    """Return `1 / (1 + exp(-value))` without overflow, however large the value."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)
