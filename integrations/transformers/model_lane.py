"""One worker thread that owns a model: short jobs first, long ones step by step.

Nothing is locked: callers put jobs into an inbox from any thread or event loop, and only the
lane's own thread looks at them. A job's future never counts as running, so that cancelling it
always succeeds and is itself the stop sign which the lane reads between two steps.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.concurrency.settled_futures import fail, resolve
from rttc_graph.integrations.concurrency.worker_threads import take_short_turns, wait_at_exit

T = TypeVar("T")

_log = logging.getLogger(__name__)

Steps = Generator[None, None, T]
"""A job that hands the lane back at each `yield` and returns its result at the end."""

FOREGROUND_SHARE = 3.0
"""Seconds that waiting foreground steps may take for each second of the last background step.

So training keeps a quarter of a lane that is never idle, and slows generation by a third at most.
"""

FOREGROUND_SECONDS = 0.2
"""Least time that foreground steps get between two background steps."""


@dataclass(eq=False, slots=True)
class _Job:
    """A short job, or the start of a stepped one."""

    start: Callable[[], Any]
    future: Future[Any]
    stepped: bool = False
    background: bool = False
    steps: Steps[Any] | None = None


@dataclass(eq=False, slots=True)
class _Board:
    """Everything the worker thread needs; it must not keep the `ModelLane` itself alive."""

    name: str
    clock: Callable[[], float]
    inbox: SimpleQueue[_Job | None] = field(default_factory=SimpleQueue["_Job | None"])
    short: deque[_Job] = field(default_factory=deque["_Job"])
    foreground: deque[_Job] = field(default_factory=deque["_Job"])
    background: deque[_Job] = field(default_factory=deque["_Job"])
    due: float = 0.0
    """Reading of `clock` from which a waiting background step goes before foreground steps."""
    closed: bool = False


class ModelLane:
    """A thread that runs jobs one at a time, in the order their kind deserves.

    Short jobs (`submit`) go before everything; then foreground steps, such as the next token of
    a batch; then background steps, such as training, one job after the other.

    Args:
        name: Name of the thread in dumps.
        clock: Seconds, monotonic.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._board = _Board(name, clock)
        self._thread = threading.Thread(
            target=_work, args=(self._board,), name=f"rttc-lane-{name}", daemon=True
        )
        self._unstarted = deque([self._thread])
        forgotten = weakref.finalize(self, _stop, self._board)
        forgotten.atexit = False  # then `wait_at_exit` stops the thread, and waits for it

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a short job and return its future.

        Cancelling the future before the job starts drops the job.
        """
        return self._put(_Job(job, Future[Any]()))

    def submit_steps(self, job: Callable[[], Steps[T]], *, background: bool = True) -> Future[T]:
        """Queue a job that runs step by step and return its future.

        Cancelling the future closes the generator in the lane before anything else runs there.

        Args:
            job: Called in the lane; returns the generator.
            background: Whether its steps wait for those of foreground jobs.
        """
        return self._put(_Job(job, Future[Any](), stepped=True, background=background))

    def is_wanted(self) -> bool:
        """Tell a foreground step whether it should end now; to be asked in the lane only."""
        board = self._board
        if board.short or board.foreground or not board.inbox.empty():
            return True
        return bool(board.background) and board.clock() >= board.due

    @property
    def is_closed(self) -> bool:
        """Whether the lane takes no more jobs, and the one in hand should end soon."""
        return self._board.closed

    def close(self) -> None:
        """Fail whatever is queued or half done; the job in hand runs to its next step."""
        _stop(self._board)

    def _put(self, job: _Job) -> Future[Any]:
        if self._board.closed:
            raise _closed_error(self._board.name)
        self._start()
        self._board.inbox.put(job)
        if self._board.closed:  # meanwhile: the worker may have emptied its inbox for good
            fail(job.future, _closed_error(self._board.name))
        return job.future

    def _start(self) -> None:
        """Start the thread at the first job; `pop` lets one of several callers through."""
        try:
            thread = self._unstarted.pop()
        except IndexError:
            return
        thread.start()


def _stop(board: _Board) -> None:
    """Ask the worker to end; never waits, since a garbage collection may call it anywhere."""
    board.closed = True
    board.inbox.put(None)


def _work(board: _Board) -> None:
    """Serve the board until it is closed; whatever ends it, nobody is left waiting."""
    try:
        _serve(board)
    except BaseException:  # noqa: BLE001  # nobody is behind a thread to catch it
        _log.exception("the lane of %r ended by a fault of its own", board.name)
    finally:
        board.closed = True
        _fail_all(board)


def _serve(board: _Board) -> None:
    wait_at_exit(partial(_stop, board))
    take_short_turns()
    while not board.closed:
        _take_in(board, may_wait=True)
        _drop_cancelled(board)
        for _ in range(len(board.short)):
            if not board.closed:
                _run_short(board.short.popleft())
        _take_in(board, may_wait=False)  # foreground steps that a short job has just queued
        _drop_cancelled(board)
        if not board.closed:
            _run_step(board)


def _take_in(board: _Board, *, may_wait: bool) -> None:
    """Move new jobs from the inbox to their queues; wait for one if there is nothing to do."""
    idle = may_wait and not (board.short or board.foreground or board.background)
    while not board.closed:
        try:
            job = board.inbox.get(block=idle)
        except Empty:
            return
        if job is not None:
            _enqueue(board, job)
        idle = False


def _enqueue(board: _Board, job: _Job) -> None:
    if not job.stepped:
        board.short.append(job)
    elif job.background:
        if not board.background:
            board.due = board.clock() + FOREGROUND_SECONDS
        board.background.append(job)
    else:
        board.foreground.append(job)


def _drop_cancelled(board: _Board) -> None:
    for queue in (board.foreground, board.background):
        for job in [job for job in queue if job.future.cancelled()]:
            queue.remove(job)
            _close_steps(job)


def _run_short(job: _Job) -> None:
    if job.future.cancelled():
        return
    try:
        result = job.start()
    except BaseException as exc:  # noqa: BLE001  # the lane outlives every job; its waiter is told
        fail(job.future, exc)
    else:
        resolve(job.future, result)


def _run_step(board: _Board) -> None:
    """Run one step of the job whose turn it is.

    Foreground jobs take turns. A background job keeps its turn until it ends, since each one that
    is half done holds memory, and jobs that take turns all end late.
    """
    queue = _next_queue(board)
    if not queue:
        return
    began = board.clock()
    job = queue.popleft()
    if _advance(job):
        (queue.appendleft if job.background else queue.append)(job)
    if job.background:
        now = board.clock()
        board.due = now + max(FOREGROUND_SECONDS, FOREGROUND_SHARE * (now - began))


def _next_queue(board: _Board) -> deque[_Job]:
    if not board.foreground:
        return board.background
    if board.background and board.clock() >= board.due:
        return board.background
    return board.foreground


def _advance(job: _Job) -> bool:
    """Run one step and tell whether there are more."""
    try:
        steps = job.steps = job.steps or cast("Steps[Any]", job.start())
        next(steps)
    except StopIteration as end:
        resolve(job.future, end.value)
    except BaseException as exc:  # noqa: BLE001  # as above, for a step
        fail(job.future, exc)
    else:
        return True
    return False


def _close_steps(job: _Job) -> None:
    """Let a half-done generator put things back; what it raises has no reader left."""
    if job.steps is None:
        return
    try:
        job.steps.close()
    except BaseException as exc:  # noqa: BLE001  # a closing lane still has the waiter to tell
        fail(job.future, exc)


def _fail_all(board: _Board) -> None:
    """Close what is half done and fail every waiter, also those that came in last."""
    while True:
        try:
            job = board.inbox.get_nowait()
        except Empty:
            break
        if job is not None:
            board.short.append(job)
    for job in (*board.short, *board.foreground, *board.background):
        _close_steps(job)
        fail(job.future, _closed_error(board.name))
    for queue in (board.short, board.foreground, board.background):
        queue.clear()


def _closed_error(name: str) -> PolicyModelError:
    return PolicyModelError(f"the local engine of {name!r} is closed: make a new one")
