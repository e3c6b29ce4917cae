"""The ledger: what a run did, entry by entry, in words that people and statistics can use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rttc_graph.run.backend_failures import Failure
from rttc_graph.run.scope import RunScope
from rttc_graph.state import LedgerEntry, RttcState


def entry(node: str, event: str, *, since: float, **detail: Any) -> LedgerEntry:
    """Return a ledger entry.

    Args:
        node: Id of the node that writes it.
        event: What happened, a past participle: `answered`, `judged`, `recalled`, `failed`, …
        since: Reading of `time.monotonic()` when the work began.
        detail: Plain data that explains the event.
    """
    return {
        "node": node,
        "event": event,
        "seconds": round(time.monotonic() - since, 6),
        "detail": detail,
    }


@dataclass(frozen=True, slots=True)
class Notes:
    """Entries that a node writes while it works; what was written stays if the work fails."""

    node: str
    entries: list[LedgerEntry] = field(default_factory=list[LedgerEntry])

    def add(self, event: str, *, since: float, **detail: Any) -> None:
        """Write that something happened; see `entry`."""
        self.entries.append(entry(self.node, event, since=since, **detail))

    def add_failure(self, error: Failure | Exception, *, since: float, **detail: Any) -> None:
        """Write that a piece of work failed, with what it was in `detail`."""
        reason = error.reason if isinstance(error, Failure) else str(error)
        self.add("failed", since=since, **detail, error=reason)


def record(state: RttcState, scope: RunScope, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Return the ledger with `entries` appended, and stream each of them as a custom event."""
    for one in entries:
        scope.emit({"event": "ledger", "entry": one})
    return [*state.get("ledger", []), *entries]


JUDGINGS: Final = frozenset({"judged", "judged_thoughts", "judged_steps"})
"""Events of judges: of answers, of answers to smaller questions, and of steps."""


def judging_flops(notes: Notes) -> float:
    """Return the operations of the judges in one step of a run, as far as they are known."""
    judged = [one["detail"]["flops"] for one in notes.entries if one["event"] in JUDGINGS]
    return float(sum(flops for flops in judged if flops is not None))
