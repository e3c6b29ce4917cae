"""Threads that no exit of the process waits for, unlike those of an executor.

The server or the network may leave a thread without an answer; it must not keep the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ("DaemonThreads", "on_daemon")

T = TypeVar("T")

_Work = tuple[Future[Any], Callable[[], Any]]


def on_daemon(work: Callable[[], T], name: str = "rttc-postgres-work") -> Future[T]:
    """Start `work` on a thread of its own."""
    future: Future[T] = Future()
    threading.Thread(target=_do, args=(future, work), name=name, daemon=True).start()
    return future


class DaemonThreads:
    """Up to `count` threads that do what is submitted, in order.

    Args:
        count: Started as they are needed.
        name: Name of the threads in dumps.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` on a thread; cancelling the future before it begins drops it."""
        future: Future[T] = Future()
        with self._lock:
            self._queue.put((future, work))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
                thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    @property
    def waiting(self) -> int:
        """Pieces of work that have not begun, about."""
        return self._queue.qsize()

    def close(self) -> None:
        """Drop what has not begun, and end each thread after what it has in hand."""
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._queue.put(None)

    def have_ended(self, *, within_seconds: float) -> bool:
        """Wait for the threads of a closed object; return whether all have ended."""
        end = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while (found := self._queue.get()) is not None:
            _do(*found)
            del found  # a result must not live as long as the thread waits for more
            self._idle.release()


def _do(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as exc:  # noqa: BLE001 - raised again where the result is awaited
        future.set_exception(exc)
    else:
        future.set_result(result)
