"""What of recorded panels is measured: a strategy, a size, and what is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.arms import ARMS, Attempt, proposer_names
from rttc_graph.errors import ConfigurationError
from rttc_graph.support.identity import unknown_name

MAX_SIZE = 64
"""Most draws of a panel, as the setting `search_n`."""

MIXED = "mixed"
"""Name of the vote of a panel that is drawn from everything at once: weighted where rewards are
probabilities, else the majority."""


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """A strategy at all sizes up to one."""

    strategy: str
    """Name of a strategy, or `mixed`."""
    size: int
    """Most answers, 1 to 64."""
    sources: tuple[Attempt, ...] = ()
    """Sources of the draws; empty for each alone, and all together where there are several."""

    def __str__(self) -> str:
        """Return the spec as it is written."""
        return f"{self.strategy}@{self.size}" + (":" + "+".join(self.sources)) * bool(self.sources)

    def sizes(self) -> list[int]:
        """Return the sizes that are measured: 1, 2, 4, … and the largest."""
        return [*(2**power for power in range(7) if 2**power < self.size), self.size]


def read_spec(text: str) -> PanelSpec:
    """Read `STRATEGY@N` or `STRATEGY@N:SOURCE+SOURCE`.

    Raises:
        ConfigurationError: It is none, or the strategy cannot be replayed.
    """
    name, _, rest = text.partition("@")
    count, _, named = rest.partition(":")
    names = replayable_names()
    if name not in names:
        raise ConfigurationError(
            f"strategy of {text!r}: {unknown_name(name, names)}. Others steer what is drawn next "
            "and cannot be replayed on recorded panels: measure them with --real"
        )
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MAX_SIZE):
        raise ConfigurationError(
            f"size {count!r} of {text!r} must be a whole number from 1 to {MAX_SIZE}"
        )
    sources = tuple(dict.fromkeys(named.split("+"))) if named else ()
    if unknown := sorted(set(sources) - set(proposer_names())):
        raise ConfigurationError(
            f"{text!r} draws from: {unknown_name(unknown[0], proposer_names())}"
        )
    return PanelSpec(name, int(count), sources)


def replayable_names() -> tuple[str, ...]:
    """Return the strategies that only select, so that a recorded panel tells what they keep."""
    known = [
        name
        for name, attempt in ARMS.attempts.items()
        if attempt.strategy is not None and not attempt.steers
    ]
    return (*known, MIXED)


def needed_size(specs: Sequence[PanelSpec], sources: Sequence[Attempt]) -> int:
    """Return how many answers must be drawn for these specs, at most 64.

    Each source gets as many as its own largest panel wants, so that a mixed panel can be compared
    with panels of the same size of one source.

    Args:
        specs: At least one.
        sources: What draws take turns from, where the spec does not say.
    """
    each = [
        -(-spec.size // len(spec.sources or sources))
        if spec.strategy == MIXED
        else -(-spec.size // max(1, len(spec.sources)))
        for spec in specs
    ]
    return min(MAX_SIZE, max(each) * len(sources))
