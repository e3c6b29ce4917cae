"""Threads for work that may be dropped when the process ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ("on_daemon",)

T = TypeVar("T")


def on_daemon(work: Callable[[], T], name: str = "rttc-postgres-work") -> Future[T]:
    """Start `work` on a thread that no exit waits for, unlike an executor's threads."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it

    def run() -> None:
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - handed over to whoever asks for the result
            future.set_exception(exc)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
