"""The seam to what keeps the ledgers of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rttc_graph.state import LedgerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One finished run, for statistics."""

    run_id: str
    tenant: str
    domain: str | None
    query: str
    policy: str
    tau_r: float
    arm: str
    reward: float | None
    accepted: bool
    """Whether the reward reached τr."""
    seconds: float
    tokens: int
    """Prompt, completion and trained tokens of all arms."""
    entries: list[LedgerEntry]


class LedgerStore(Protocol):
    """Keeps the ledgers of finished runs."""

    async def append(self, run: RunRecord) -> None:
        """Store one finished run.

        Raises:
            BackendError: It was not stored.
        """
        ...
