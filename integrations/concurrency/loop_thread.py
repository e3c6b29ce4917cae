"""An event loop of our own, for vendors' asynchronous clients.

Such clients keep connections that belong to the loop which opened them, and some of them block.
On one loop in one thread they live as long as their model, whichever loops our callers come from.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines of any caller on one event loop in a thread.

    The thread starts at first use and ends when this object is collected.

    Args:
        name: Name of the thread in dumps.
        workers: Threads for synchronous code that a coroutine sends to the loop's executor.
    """

    def __init__(self, name: str, *, workers: int) -> None:
        self._name = name
        self._workers = workers
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def await_on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on the other loop; cancelling this call cancels it there.

        Context variables go along, so callbacks and tracing of the caller's graph see the call.
        """
        loop = self._loop or self._start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._starting:  # held for microseconds, once
            if self._loop is None:
                loop = asyncio.new_event_loop()
                executor = ThreadPoolExecutor(
                    self._workers, thread_name_prefix=f"{self._name}-sync"
                )
                loop.set_default_executor(executor)
                threading.Thread(
                    target=_serve, args=(loop, executor), name=self._name, daemon=True
                ).start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
                self._loop = loop
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        executor.shutdown(wait=False)
        loop.close()
