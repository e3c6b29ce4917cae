"""Measures two sides in turn and says how they compare.

The machine may be shared: sides take turns, the ratio is taken pair by pair, and the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
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
    more_is_better: bool = False
    """Whether the unit is a rate or a share of what is right; the ratio is then ours / peer."""
    least_ratio: float | None = None
    """How many times better than the peer it must be."""
    most_ours: float | None = None
    """What it may take at most, in `unit`."""
    pairs: int | None = None
    """For what comes out the same each time, or takes too long: other than what is asked for."""
    warm_up: bool = True

    @property
    def target(self) -> str:
        """The aim, for people."""
        aims: list[str] = []
        if self.least_ratio is not None:
            aims.append(f"ratio >= {self.least_ratio:.3g}")
        if self.most_ours is not None:
            aims.append(f"ours <= {self.most_ours:g} {self.unit}")
        return ", ".join(aims)


def measure(case: Case, *, pairs: int) -> dict[str, Any]:
    """Measure a case and return its row: medians, and how many times better ours is."""
    if case.warm_up:
        case.ours(), case.peer()
    found: list[tuple[float, float]] = []
    for number in range(case.pairs or pairs):
        if number % 2:
            theirs, mine = case.peer(), case.ours()
        else:
            mine, theirs = case.ours(), case.peer()
        found.append((mine, theirs))
    return row_of(case, found)


def row_of(case: Case, found: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the row of a case for what was measured: ours and the peer's, pair by pair."""
    better = [mine / theirs if case.more_is_better else theirs / mine for mine, theirs in found]
    ours, ratio = statistics.median(mine for mine, _ in found), statistics.median(better)
    return {
        "case": case.name,
        "ours": ours,
        "peer": statistics.median(theirs for _, theirs in found),
        "peer_name": case.peer_name,
        "unit": case.unit,
        "ratio": ratio,
        "spread": [min(better), max(better)],
        "target": case.target,
        "met": (case.least_ratio is None or ratio >= case.least_ratio)
        and (case.most_ours is None or ours <= case.most_ours),
    }
