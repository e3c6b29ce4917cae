"""Errors that several waiters get."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from rttc_graph.integrations.concurrency.settled_futures import fail


async def test_a_waiter_that_has_caught_an_error_goes_on_as_another_one_gets_it() -> None:
    """Its frame is in the error that they share, and it waits for something else by now."""
    first, second = Future[None](), Future[None]()
    let = asyncio.Event()

    async def asks() -> str:
        try:
            await asyncio.wrap_future(first)
        except ValueError:
            await let.wait()
        return "went on"

    waiter = asyncio.create_task(asks())
    await asyncio.sleep(0)
    error = ValueError("the job ended")
    fail(first, error)
    for _ in range(5):  # its turns until it waits again
        await asyncio.sleep(0)
    assert error.__traceback__ is not None
    fail(second, error)
    let.set()
    assert await asyncio.wait_for(waiter, 10) == "went on"


def test_what_the_frames_of_an_error_hold_is_let_go() -> None:
    held = [object()]

    def fails() -> None:
        mine = held
        raise ValueError(len(mine))

    with pytest.raises(ValueError, match="1") as raised:
        fails()
    caught = raised.value
    step = caught.__traceback__
    assert step is not None
    assert step.tb_next is not None
    assert "mine" in step.tb_next.tb_frame.f_locals
    fail(Future[None](), caught)
    assert "mine" not in step.tb_next.tb_frame.f_locals
