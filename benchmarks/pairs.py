"""Measures two sides in turn and says how they compare.

The machine may be shared: sides take turns, the ratio is taken pair by pair, and the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PAIRS = 5
"""Fewest pairs from which a median is quoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is compared with what, and what is hoped for."""

    name: str
    ours: Callable[[], float]
    """Does the work once and returns what it took, in `unit`; less is better."""
    peer: Callable[[], float]
    peer_name: str
    """The other side with its version, and how it is set up where that matters."""
    unit: str
    least_ratio: float | None = None
    """How many times less than the peer it must take."""
    most_ours: float | None = None
    """What it may take at most, in `unit`."""

    @property
    def target(self) -> str:
        """The aim, for people."""
        aims: list[str] = []
        if self.least_ratio is not None:
            aims.append(f"ratio >= {self.least_ratio:g}")
        if self.most_ours is not None:
            aims.append(f"ours <= {self.most_ours:g} {self.unit}")
        return ", ".join(aims)


def measure(case: Case, *, pairs: int) -> dict[str, Any]:
    """Measure a case and return its row: medians, and the ratio peer / ours with its spread."""
    case.ours(), case.peer()  # warm-up
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            theirs, mine = case.peer(), case.ours()
        else:
            mine, theirs = case.ours(), case.peer()
        found.append((mine, theirs))
    ratios = [theirs / mine for mine, theirs in found]
    ours, ratio = statistics.median(mine for mine, _ in found), statistics.median(ratios)
    return {
        "case": case.name,
        "ours": ours,
        "peer": statistics.median(theirs for _, theirs in found),
        "peer_name": case.peer_name,
        "unit": case.unit,
        "ratio": ratio,
        "spread": [min(ratios), max(ratios)],
        "target": case.target,
        "met": (case.least_ratio is None or ratio >= case.least_ratio)
        and (case.most_ours is None or ours <= case.most_ours),
    }
