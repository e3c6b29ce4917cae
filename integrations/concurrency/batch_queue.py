"""Threads that turn items into results, several callers' items in one call.

A caller only puts a job into a queue and awaits its future, so no event loop is ever blocked and
none is remembered. A worker takes what is waiting, up to a full batch, and works on it at once:
the busier it is, the fuller its batches get, and a lone request never waits for company.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from rttc_graph.integrations.concurrency.worker_threads import wait_at_exit

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(eq=False, slots=True)
class _Job(Generic[ItemT, ResultT]):
    items: list[ItemT]
    future: Future[list[ResultT]]


@dataclass(eq=False, slots=True)
class _Desk(Generic[ItemT, ResultT]):
    """State that the worker threads share; it must not keep the `BatchQueue` alive."""

    work: Callable[[list[ItemT]], Sequence[ResultT]]
    batch_size: int
    coalesce: bool
    inbox: SimpleQueue[_Job[ItemT, ResultT] | None]


class BatchQueue(Generic[ItemT, ResultT]):
    """A queue before a blocking function of a list.

    The threads start with the first job and end when the queue is collected.

    Args:
        work: Called in a worker thread with 1 to `batch_size` items; returns one result for each.
            It must not refer to the queue or its owner, or neither is ever collected.
        name: Name of the threads in dumps.
        batch_size: Items in one call at most.
        coalesce: Whether items of several callers may share a call.
        threads: Calls at the same time; 1 for a model that is not thread-safe.
    """

    def __init__(
        self,
        work: Callable[[list[ItemT]], Sequence[ResultT]],
        *,
        name: str,
        batch_size: int,
        coalesce: bool = True,
        threads: int = 1,
    ) -> None:
        self._desk = _Desk(work, batch_size, coalesce, SimpleQueue())
        self._threads = [
            threading.Thread(target=_serve, args=(self._desk,), name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        self._starting = threading.Lock()
        self._started = False
        forgotten = weakref.finalize(self, _stop, self._desk.inbox, threads)
        forgotten.atexit = False  # then `wait_at_exit` stops the threads, and waits for them

    async def submit(self, items: Sequence[ItemT]) -> list[ResultT]:
        """Return one result for each item, in order.

        More than a batch is handed in piece by piece, each after the one before, so that another
        caller's single item waits for one batch and not for all of them, and a cancelled call
        stops at the next piece.

        Raises:
            BaseException: Whatever `work` raised for these items.
        """
        if not self._started:
            self._start()
        results: list[ResultT] = []
        for first in range(0, len(items), self._desk.batch_size):
            piece = list(items[first : first + self._desk.batch_size])
            future: Future[list[ResultT]] = Future()
            self._desk.inbox.put(_Job(piece, future))
            done = await asyncio.wrap_future(future)
            results += done
        return results

    def _start(self) -> None:
        # Without the lock two callers at once could run one `Thread` object in two threads.
        with self._starting:
            if not self._started:
                for thread in self._threads:
                    thread.start()
                self._started = True


def _stop(inbox: SimpleQueue[_Job[ItemT, ResultT] | None], threads: int) -> None:
    for _ in range(threads):
        inbox.put(None)


def _serve(desk: _Desk[ItemT, ResultT]) -> None:
    """Work until the stop sign; a job that would overfill a batch opens the next one."""
    wait_at_exit(partial(desk.inbox.put, None))
    held: _Job[ItemT, ResultT] | None = None
    while True:
        job = held or desk.inbox.get()
        if job is None:
            return
        batch, held, is_last = _gather(desk, job)
        _finish(desk, [job for job in batch if not job.future.cancelled()])
        if is_last:
            return


def _gather(
    desk: _Desk[ItemT, ResultT], first: _Job[ItemT, ResultT]
) -> tuple[list[_Job[ItemT, ResultT]], _Job[ItemT, ResultT] | None, bool]:
    """Return the jobs of one batch, the job that did not fit, and whether the stop sign came."""
    batch, size = [first], len(first.items)
    while desk.coalesce and size < desk.batch_size:
        try:
            job = desk.inbox.get_nowait()
        except Empty:
            break
        if job is None:
            return batch, None, True
        if size + len(job.items) > desk.batch_size:
            return batch, job, False
        batch.append(job)
        size += len(job.items)
    return batch, None, False


def _finish(desk: _Desk[ItemT, ResultT], batch: list[_Job[ItemT, ResultT]]) -> None:
    """Work on a batch and tell its callers; one bad item fails its own caller only."""
    if not batch:
        return
    try:
        results = _results(desk, [item for job in batch for item in job.items])
    except BaseException as exc:  # noqa: BLE001 - the thread outlives every job, the waiter gets whatever it was
        if len(batch) == 1:
            _settle(batch[0], error=exc)
            return
        for job in batch:
            _finish(desk, [job])
        return
    position = 0
    for job in batch:
        _settle(job, results=results[position : position + len(job.items)])
        position += len(job.items)


def _results(desk: _Desk[ItemT, ResultT], items: list[ItemT]) -> list[ResultT]:
    results = list(desk.work(items))
    if len(results) != len(items):
        raise ValueError(f"got {len(results)} results for {len(items)} items")
    return results


def _settle(
    job: _Job[ItemT, ResultT],
    *,
    results: list[ResultT] | None = None,
    error: BaseException | None = None,
) -> None:
    if isinstance(error, StopIteration):  # asyncio refuses to carry it, the waiter would hang
        error = RuntimeError(f"raised {error!r}")
    try:
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(results or [])
    except InvalidStateError:
        return  # cancelled meanwhile
