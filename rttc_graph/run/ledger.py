"""The ledger: what a run did, entry by entry, in words that people and statistics can use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

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


def record(state: RttcState, scope: RunScope, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Return the ledger with `entries` appended, and stream each of them as a custom event."""
    for one in entries:
        scope.emit({"event": "ledger", "entry": one})
    return [*state.get("ledger", []), *entries]
