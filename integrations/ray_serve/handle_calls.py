"""Calls of a deployment by its handle: deadlines, cancellation, another replica, our own errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rttc_graph.errors import BackendError, RttcError
from rttc_graph.integrations.concurrency.loop_thread import LoopThread
from rttc_graph.integrations.ray_serve.lost_nodes import LostNodes
from rttc_graph.integrations.ray_serve.ray_library import ray_library, rpc_error, serve_library

__all__ = ("HandleCalls", "run_apart")

T = TypeVar("T")

GRACE_SECONDS = 5.0
"""Time past its deadline in which a replica may answer; beyond it the call is given up."""

LONGEST_SECONDS = 300.0
"""Longest call of those that have no deadline of their own."""

_TRIES = 8
"""Replicas that a call is sent to, one after the other, while they die in mid-call. With the pauses
between them that takes some seven seconds, in which a lost node is noticed."""

_LOOK_SECONDS = 5.0
"""Time after which a call that has no answer yet looks whether a node was lost, again and again."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


_END = object()
"""Mark behind the last item."""


class _LostReplica(Exception):
    """A replica is gone, with what it had in hand."""


class HandleCalls:
    """A deployment, called from any event loop.

    Each call may be made twice: all of them give the same result when they are made again.

    Args:
        handle: The deployment's handle.
        what: Name of the deployment, for errors.
        error: Error of what cannot be had from it.
        loop: Where Ray is called; several deployments share one.
    """

    def __init__(
        self, handle: Any, *, what: str, error: type[BackendError], loop: LoopThread
    ) -> None:
        self._given = handle
        self._direct: Any = None  # made by the first call, on the loop
        self._what = what
        self._error = error
        self._loop = loop
        self._lost_nodes = LostNodes()
        self._rpc_error = rpc_error()
        self._ray_errors = ray_library().exceptions
        self._serve_errors = serve_library().exceptions

    async def call(self, method: str, *arguments: Any, key: str | None = None) -> Any:
        """Return what a method of a replica returns.

        Args:
            method: Name of the method.
            arguments: Its arguments.
            key: Adapter that the replica should hold.

        Raises:
            RttcError: As the method raises it.
            BackendError: No replica answers.
        """
        end = time.monotonic() + LONGEST_SECONDS
        return await self.call_until(end, method, *arguments, key=key)

    async def call_until(
        self, end: float, method: str, *arguments: Any, key: str | None = None
    ) -> Any:
        """Return what a method returns that knows of no deadline; give it up at the end.

        Raises:
            RttcError: As the method raises it.
            BackendError: No replica answers in time.
        """
        return await self._loop.await_on_loop(
            self._persist(lambda to: self._once(method, arguments, to), key, end)
        )

    async def call_within(
        self, deadline: float | None, method: str, *arguments: Any, key: str | None = None
    ) -> Any:
        """Return what a method returns whose last argument is the time that is left, in seconds.

        Raises:
            RttcError: As the method raises it.
            BackendError: No replica answers in time.
        """

        async def once(to: str | None) -> Any:
            return await self._once(method, (*arguments, _left(deadline)), to)

        return await self._loop.await_on_loop(self._persist(once, key, deadline))

    async def follow_within(
        self,
        deadline: float | None,
        method: str,
        *arguments: Any,
        on_item: Callable[[Any], None],
        key: str | None = None,
    ) -> Any:
        """Return the last item that a method yields; the others are handed over as they come.

        Its last argument is the time that is left, in seconds. A replica that dies in between is
        followed by another one from the first item on.

        Raises:
            RttcError: As the method raises it.
            BackendError: No replica answers in time.
        """

        async def once(to: str | None) -> Any:
            return await self._follow(method, (*arguments, _left(deadline)), to, on_item)

        return await self._loop.await_on_loop(self._persist(once, key, deadline))

    async def _persist(
        self,
        once: Callable[[str | None], Coroutine[Any, Any, T]],
        key: str | None,
        deadline: float | None,
    ) -> T:
        """Make a call, on another replica while one is lost in the middle of it."""
        limit = None if deadline is None else _left(deadline, GRACE_SECONDS)
        pause, lost = _FIRST_PAUSE_SECONDS, _LostReplica("the time was over")
        try:
            async with asyncio.timeout(limit):
                for _ in range(_TRIES):
                    try:
                        return await once(key)
                    except _LostReplica as exc:
                        lost, key = exc, None  # whoever held the adapter is gone
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except TimeoutError as exc:
            raise self._error(
                f"{self._what} gave no answer within {limit:.1f} s ({lost}): look at `serve "
                "status`, raise ray.min_replicas, or raise budget_seconds",
                retryable=True,
            ) from exc
        raise self._error(
            f"{self._what} was lost {_TRIES} times in mid-call, the last time with: {lost}. Ask "
            "again; if it goes on, look at `serve status` and the logs of the replicas",
            retryable=True,
        ) from lost

    async def _once(self, method: str, arguments: tuple[Any, ...], key: str | None) -> Any:
        response = self._to(method, key).remote(*arguments)
        try:
            return await self._watched(response)
        except BaseException as exc:
            raise self._translated(exc, response) from exc

    async def _follow(
        self,
        method: str,
        arguments: tuple[Any, ...],
        key: str | None,
        on_item: Callable[[Any], None],
    ) -> Any:
        response = self._to(method, key, stream=True).remote(*arguments)
        items, held = aiter(response), list[Any]()
        try:
            while (item := await self._watched(anext(items, _END))) is not _END:
                for one in held:
                    on_item(one)
                held = [item]
        except BaseException as exc:
            raise self._translated(exc, response) from exc
        if not held:
            raise _LostReplica(f"{method} ended without a result")
        return held[0]

    async def _watched(self, answer: Awaitable[T]) -> T:
        """Await an answer, and give it up when a node was lost meanwhile.

        A process that dies closes its connections. A machine that vanishes does not.
        """
        began = time.monotonic()
        waiting = asyncio.ensure_future(answer)
        waiting.add_done_callback(_take_error)
        try:
            while not (await asyncio.wait({waiting}, timeout=_LOOK_SECONDS))[0]:
                if await self._lost_nodes.since(began):
                    raise _LostReplica("a node was lost meanwhile")
            return waiting.result()
        finally:
            waiting.cancel()

    def _to(self, method: str, key: str | None, **more: Any) -> Any:
        if self._direct is None:
            self._direct = _direct(self._given)
        return self._direct.options(method_name=method, multiplexed_model_id=key or "", **more)

    def _translated(self, exc: BaseException, response: Any) -> BaseException:
        """Return what to raise for what came of a call."""
        if isinstance(exc, asyncio.CancelledError):
            response.cancel()
            return exc if _is_being_cancelled() else _LostReplica("it ended the call")
        if isinstance(exc, _LostReplica):
            response.cancel()
            return exc
        if isinstance(exc, self._ray_errors.RayTaskError):
            cause = getattr(exc, "cause", None)
            if isinstance(cause, RttcError):
                return cause
            return self._error(f"{self._what} failed: {cause or exc}")
        if isinstance(exc, self._serve_errors.BackPressureError):
            return self._error(
                f"{self._what} has as much to do as it takes: ask again later, or raise the number "
                "of replicas (ray.trainers, ray.min_replicas)",
                retryable=True,
            )
        if isinstance(exc, self._serve_errors.DeploymentUnavailableError):
            return self._error(f"{self._what} is not running: {exc}; look at `serve status`")
        lost = (self._ray_errors.RayError, self._serve_errors.RayServeException, self._rpc_error)
        if isinstance(exc, lost):
            return _LostReplica(f"{type(exc).__name__} {exc}".partition("\n")[0])
        return exc


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on an event loop of its own, also where another one runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _direct(handle: Any) -> Any:
    """Return a handle of our own, which calls by gRPC and routes on the loop that runs here.

    That takes half of what a call costs (docs/experiments.md). These are options of one handle:
    Ray Serve's variables for them would change the host's handles too. A release of Ray without
    them gets the handle as it is.
    """
    try:
        own = type(handle)(handle.deployment_name, handle.app_name)
        own._init(_run_router_in_separate_loop=False)
        return own.options(_by_reference=False)
    except (AttributeError, TypeError):
        return handle.options()


def _take_error(done: asyncio.Future[Any]) -> None:
    """Take the error of a call that was given up, or asyncio would log it."""
    if not done.cancelled():
        done.exception()


def _left(deadline: float | None, grace: float = 0.0) -> float | None:
    return None if deadline is None else deadline + grace - time.monotonic()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
