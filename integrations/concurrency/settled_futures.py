"""Results and errors for futures that may have been cancelled meanwhile."""

from __future__ import annotations

import contextlib
import inspect
from concurrent.futures import Future, InvalidStateError
from typing import Any

__all__ = ("clear_frames", "fail", "resolve")

_WAITS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Flags of code that may wait in the middle."""


def resolve(future: Future[Any], result: object) -> None:
    """Give a future its result, unless nobody wants it any more."""
    try:
        future.set_result(result)
    except InvalidStateError:
        return


def fail(future: Future[Any], exc: BaseException) -> None:
    """Give a future its error, unless nobody wants it any more.

    What the frames of the error hold is let go: tensors of a failed job would stay for as long as
    its waiter keeps the error.
    """
    clear_frames(exc)
    if isinstance(exc, StopIteration):  # asyncio refuses to carry it, and the waiter would hang
        exc = RuntimeError(f"a job of the lane raised StopIteration({exc.value!r})")
    try:
        future.set_exception(exc)
    except InvalidStateError:
        return


def clear_frames(exc: BaseException) -> None:
    """Let go of what the frames of an error hold, those of coroutines excepted.

    An error that several waiters got has the frames of all of them. One of these may have caught
    it and wait for something else by now, and to clear the frame of a waiting coroutine closes it
    (before Python 3.13): it then ends with "cannot reuse already awaited coroutine".
    """
    step = exc.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_flags & _WAITS:
            with contextlib.suppress(RuntimeError):  # it runs
                step.tb_frame.clear()
        step = step.tb_next
