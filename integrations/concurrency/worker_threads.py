"""Threads with native code in them, which the interpreter has to wait for at its end.

A daemon thread that is still freeing tensors when the interpreter goes takes the process down with
"terminate called without an active exception", whatever the program's result was.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

EXIT_SECONDS = 5.0
"""How long the interpreter waits for all of them together."""

_running: WeakKeyDictionary[threading.Thread, Callable[[], None]] = WeakKeyDictionary()


def wait_at_exit(stop: Callable[[], None]) -> None:
    """Let the interpreter end only after the calling thread has, or after `EXIT_SECONDS`.

    Args:
        stop: Tells the thread to end after what it has in hand. Kept as long as the thread lives,
            so it must not refer to what the thread is to free, such as a model.
    """
    _running[threading.current_thread()] = stop


@atexit.register
def _leave() -> None:
    threads = list(_running.items())
    for _, stop in threads:
        stop()
    deadline = time.monotonic() + EXIT_SECONDS
    for thread, _ in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
