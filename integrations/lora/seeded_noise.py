"""Random numbers that depend on a seed alone: the same bits on every device.

torch's generators give other numbers on a GPU than on a CPU, and numbers that are drawn on the CPU
must be copied. Here each number is a hash of its own place, made of whole-number products and
shifts, which all devices compute alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ("uniform",)

_STEP = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): distance of two states, and how one is mixed."""

_BITS = 24
"""Bits of a number: as many as float32 keeps."""


def uniform(count: int, *, seed: int, device: torch.device) -> Tensor:
    """Return so many numbers, float32, uniform in [-1, 1)."""
    hashed = torch.arange(1, count + 1, device=device)  # int64, whose products wrap around
    hashed.mul_(_signed(_STEP)).add_(_signed(_mixed(seed)))
    for shift, factor in _ROUNDS:
        hashed.bitwise_xor_(_shifted(hashed, shift))
        if factor != 1:
            hashed.mul_(_signed(factor))
    return _shifted(hashed, 64 - _BITS).float().mul_(2.0 ** (1 - _BITS)).sub_(1.0)


def _mixed(seed: int) -> int:
    """Return 64 bits of a seed, so that near seeds have states far from each other."""
    state = seed * _STEP
    for shift, factor in _ROUNDS:
        state &= 2**64 - 1
        state = (state ^ (state >> shift)) * factor
    return state & (2**64 - 1)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Return numbers shifted to the right as if they had no sign."""
    return numbers.bitwise_right_shift(bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the int64 with the bits of a number of 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
