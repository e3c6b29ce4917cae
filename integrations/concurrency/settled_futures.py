"""Results and errors for futures that may have been cancelled meanwhile."""

from __future__ import annotations

import traceback
from concurrent.futures import Future, InvalidStateError
from typing import Any

__all__ = ("fail", "resolve")


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
    traceback.clear_frames(exc.__traceback__)
    if isinstance(exc, StopIteration):  # asyncio refuses to carry it, and the waiter would hang
        exc = RuntimeError(f"a job of the lane raised StopIteration({exc.value!r})")
    try:
        future.set_exception(exc)
    except InvalidStateError:
        return
