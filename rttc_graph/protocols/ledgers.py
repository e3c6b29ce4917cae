"""The seam to the store of ledgers of finished runs."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from rttc_graph.state import Candidate, LedgerEntry, Source

current_run_id: ContextVar[str | None] = ContextVar("rttc_run_id", default=None)
"""Id of the run that the code at hand works for, for logs; `None` outside of runs and in the first
step of one."""


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
    """Whether the answer can be acted on."""
    seconds: float
    tokens: int
    """Prompt, completion and trained tokens of all arms."""
    entries: list[LedgerEntry]
    answer: str = ""
    """Answer of the run."""
    declined: bool = False
    """Whether that is the text that declines."""
    candidate: Candidate | None = None
    """The candidate that was taken."""
    calibrated: bool = False
    """Whether the reward is a probability, by a calibration for the domain."""
    sources: list[Source] = field(default_factory=list[Source])
    """Samples that the answers rest on, nearest first."""


class LedgerStore(Protocol):
    """Keeps the ledgers of finished runs."""

    async def append(self, run: RunRecord) -> None:
        """Store one finished run.

        Raises:
            BackendError: It was not stored.
        """
        ...
