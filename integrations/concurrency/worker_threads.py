"""Threads with native code in them, which the interpreter has to wait for at its end.

A daemon thread that is still freeing tensors when the interpreter goes takes the process down with
"terminate called without an active exception", whatever the program's result was.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn, cast
from weakref import WeakKeyDictionary

EXIT_SECONDS = 5.0
"""Longest time that the interpreter waits at exit, for all threads together."""

SWITCH_SECONDS = 2e-4
"""Longest time that a thread keeps the interpreter while others wait: docs/experiments.md."""

TRAINING_SWITCH_SECONDS = 2e-5
"""That time while a training computes: docs/experiments.md."""

_DEFAULT_SWITCH_SECONDS = 5e-3
"""Interval that CPython begins with."""

_running: WeakKeyDictionary[threading.Thread, Callable[[], None]] = WeakKeyDictionary()


def take_short_turns() -> None:
    """Shorten the turns of all threads to `SWITCH_SECONDS`, unless the host has set its own.

    A model's thread gives the interpreter up at each of its thousands of small operations. Beside
    a thread that computes in Python it would wait 5 ms to get it back, each time.
    """
    if sys.getswitchinterval() == _DEFAULT_SWITCH_SECONDS:
        sys.setswitchinterval(SWITCH_SECONDS)


_turns_lock = threading.Lock()
_trainings_computing = 0


@contextmanager
def shortest_turns() -> Generator[None]:
    """Shorten the turns of all threads further while a pass of a training computes.

    A pass of a small model is hundreds of operations of some microseconds, so nearly all of its
    time beside a busy thread is waiting for the interpreter. A host's own interval stays.
    """
    _note_training(1)
    try:
        yield
    finally:
        _note_training(-1)


def _note_training(more: int) -> None:
    global _trainings_computing
    with _turns_lock:  # trainings of several models may compute at once
        _trainings_computing += more
        now = sys.getswitchinterval()
        if _trainings_computing and math.isclose(now, SWITCH_SECONDS):
            sys.setswitchinterval(TRAINING_SWITCH_SECONDS)
        elif not _trainings_computing and math.isclose(now, TRAINING_SWITCH_SECONDS):
            sys.setswitchinterval(SWITCH_SECONDS)


def wait_at_exit(stop: Callable[[], None]) -> None:
    """Let the interpreter end only after the calling thread has, or after `EXIT_SECONDS`.

    Args:
        stop: Tells the thread to end after what it has in hand. Kept as long as the thread lives,
            so it must not refer to what the thread is to free, such as a model.
    """
    _running[threading.current_thread()] = stop


def leave(code: int) -> NoReturn:
    """End the process with an exit code, whatever a native call in one of the threads still does.

    Called when everything else is put away. A thread that does not end in `EXIT_SECONDS`, for
    example in one pass over a very long prompt, would abort the interpreter on its way out.
    """
    if stop_all():
        sys.exit(code)
    atexit.unregister(stop_all)
    cast("Any", atexit)._run_exitfuncs()  # others put things away there, such as a database
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@atexit.register
def stop_all() -> bool:
    """Stop the threads, wait for them, and tell whether all have ended."""
    threads = list(_running.items())
    for _, stop in threads:
        stop()
    deadline = time.monotonic() + EXIT_SECONDS
    for thread, _ in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread, _ in threads)
