"""What becomes a failure and what passes through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from langgraph.errors import GraphBubbleUp, GraphInterrupt

from rttc_graph.errors import BudgetExceeded, KnowledgeBaseError
from rttc_graph.run.backend_failures import Failure, survive


async def raising(error: BaseException) -> str:
    await asyncio.sleep(0)
    raise error


async def hanging() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_a_result_passes() -> None:
    async def work() -> str:
        return "done"

    assert await survive(work(), deadline=time.monotonic() + 60) == "done"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(
            KnowledgeBaseError("no database"), "KnowledgeBaseError: no database", id="one-of-ours"
        ),
        pytest.param(RuntimeError("out of memory"), "RuntimeError: out of memory", id="any-other"),
        pytest.param(ValueError(), "ValueError", id="one-without-a-message"),
        pytest.param(TimeoutError("read"), "TimeoutError: read", id="a-timeout-of-its-own"),
    ],
)
async def test_an_error_becomes_a_failure(error: Exception, reason: str) -> None:
    failure = await survive(raising(error), deadline=time.monotonic() + 60)
    assert isinstance(failure, Failure)
    assert failure.error is error
    assert failure.reason == reason


@pytest.mark.parametrize("late_by", [0.0, 5.0], ids=["at-the-deadline", "after-the-deadline"])
async def test_work_past_the_deadline_is_cut(late_by: float) -> None:
    failure = await survive(hanging(), deadline=time.monotonic() - late_by)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, BudgetExceeded)


async def test_an_error_of_work_that_is_being_cut_counts_as_the_budget() -> None:
    async def stubborn() -> str:
        try:
            return await hanging()
        except asyncio.CancelledError:
            raise RuntimeError("connection lost while stopping") from None

    failure = await survive(stubborn(), deadline=time.monotonic())
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, BudgetExceeded)


async def test_work_that_stops_by_itself_at_the_deadline_keeps_its_result() -> None:
    async def stops_itself() -> str:
        await asyncio.sleep(0.02)
        return "what came so far"

    made = await survive(stops_itself(), deadline=time.monotonic() + 0.001, grace_seconds=60)
    assert made == "what came so far"


@pytest.mark.parametrize(
    "signal", [GraphBubbleUp(), GraphInterrupt()], ids=lambda e: type(e).__name__
)
async def test_control_flow_of_the_graph_passes(signal: Exception) -> None:
    with pytest.raises(type(signal)):
        await survive(raising(signal), deadline=time.monotonic() + 60)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_signals_of_the_process_pass(signal: type[BaseException]) -> None:
    with pytest.raises(signal):
        asyncio.run(survive(raising(signal()), deadline=time.monotonic() + 60))


async def test_a_cancelled_run_is_cancelled() -> None:
    begun = asyncio.Event()

    async def work() -> str:
        begun.set()
        return await hanging()

    run = asyncio.create_task(_wrapped(work))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def _wrapped(work: Callable[[], Awaitable[str]]) -> str | Failure:
    return await survive(work(), deadline=time.monotonic() + 60)


async def test_a_component_that_was_cancelled_behind_our_back_has_failed() -> None:
    """A lane that shuts down cancels its futures; that is no wish to end the run."""
    lane: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    lane.cancel()

    failure = await survive(lane, deadline=time.monotonic() + 60)

    assert isinstance(failure, Failure)
    assert "cancelled from within" in failure.reason
