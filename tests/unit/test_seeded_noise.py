"""Random numbers of a seed: uniform, and the same everywhere."""

from __future__ import annotations

import pytest
import torch

from rttc_graph.integrations.lora.seeded_noise import uniform

CPU = torch.device("cpu")
MASK = 2**64 - 1


def _mix(state: int) -> int:
    state &= MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 1, 12345, -1, 2**63])
def test_numbers_are_splitmix_of_their_place(seed: int) -> None:
    """The reference counts in Python's whole numbers, so no device's arithmetic is in it."""
    start = _mix(seed * 0x9E3779B97F4A7C15)
    expected = [
        (_mix(start + place * 0x9E3779B97F4A7C15) >> 40) * 2.0**-23 - 1 for place in range(1, 50)
    ]
    assert uniform(49, seed=seed, device=CPU).tolist() == expected


def test_numbers_are_spread_evenly() -> None:
    found = uniform(100_000, seed=7, device=CPU)
    counts = torch.histc(found, bins=20, min=-1, max=1)
    assert (counts - 5000).abs().max() < 350  # five deviations
    assert abs(float(found.mean())) < 0.01
    neighbours = torch.stack([found[:-1], found[1:]])
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.02
    others = torch.stack([found, uniform(100_000, seed=8, device=CPU)])
    assert abs(float(torch.corrcoef(others)[0, 1])) < 0.02
