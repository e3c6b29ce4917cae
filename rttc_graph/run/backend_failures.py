"""The one place where any failure is caught: a broken arm must not lose the answer in hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from langgraph.errors import GraphBubbleUp

from rttc_graph.errors import BackendError, BudgetExceeded
from rttc_graph.support.others_words import without_keys

T = TypeVar("T")

GRACE_SECONDS = 2.0
"""Time past the deadline in which a component that knows the deadline may return what it has."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A piece of work that failed or ran out of time."""

    error: Exception

    @property
    def reason(self) -> str:
        """Class and message of the error, without keys, for the ledger."""
        return without_keys(f"{type(self.error).__name__}: {self.error}").rstrip(": ")


async def survive(
    work: Awaitable[T], *, deadline: float, grace_seconds: float = 0.0
) -> T | Failure:
    """Await `work` until the deadline and return its result, or the failure as a value.

    Cancellation and LangGraph's own control flow (interrupts) pass through.

    Args:
        work: A coroutine of one of our protocols.
        deadline: Reading of `time.monotonic()` at which the run's budget of seconds ends.
        grace_seconds: Added to the deadline for work that stops there by itself.
    """
    left = max(0.0, deadline + grace_seconds - time.monotonic())
    limit = asyncio.timeout(left)
    try:
        async with limit:
            return await work
    except GraphBubbleUp:
        raise
    except asyncio.CancelledError:
        if _is_being_cancelled():
            raise
        return Failure(BackendError("the work was cancelled from within, not by this run"))
    except Exception as exc:  # noqa: BLE001 - components are the user's; no failure may lose the answer
        if limit.expired():
            return Failure(
                BudgetExceeded(
                    f"the run's budget of seconds ended after {left:.1f} s: raise budget_seconds"
                )
            )
        return Failure(exc)


def _is_being_cancelled() -> bool:
    """Tell a wish to end this run from a component that cancelled a future of its own."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
