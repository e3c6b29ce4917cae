"""The trainings in hand, of which as many as may go on in one pass."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.concurrency.settled_futures import fail, resolve
from rttc_graph.integrations.lora.training_loop import Pass
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine

__all__ = ("Runner", "TrainingCrowd")

P = TypeVar("P")
T = TypeVar("T")


class Runner(Protocol):
    """Runs the passes that trainings want."""

    def run(self, wanted: Sequence[Pass]) -> list[float | Exception]:
        """Return for each pass its part of the loss, or why it has none."""
        ...

    def rest(self) -> None:
        """Let go of what is not needed while no training is in hand."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class _Member(Generic[P]):
    """A training that waits or goes on."""

    plan: P
    start: Callable[[LoadedModel], Generator[Pass, float, Any]]
    future: Future[Any] = field(default_factory=Future[Any])
    """Never counts as running, so that cancelling it always succeeds; asked before each pass."""
    passes: Generator[Pass, float, Any] | None = None
    wanted: Pass | None = None
    """Pass that it wants next; `None` before the first and after the last."""


class TrainingCrowd(Generic[P]):
    """Trainings of one model: they come and go between two passes, first come, first in.

    One job of the engine's lane runs while there are any. Each turn of it is a pass of every
    training that goes on. A training that fails, is late or is cancelled leaves by itself.

    Args:
        engine: Its lane runs them.
        runner: Makes what runs the passes; called in the lane.
        may_join: Whether a plan may go on beside others; asked only if there are any.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        runner: Callable[[LoadedModel], Runner],
        may_join: Callable[[Sequence[P], P], bool],
    ) -> None:
        self._engine = engine
        self._make_runner = runner
        self._may_join = may_join
        self._runner: Runner | None = None
        self._lock = threading.Lock()
        """Around `_waiting` and `_has_job`; callers in several event loops share them."""
        self._waiting: deque[_Member[P]] = deque()
        self._has_job = False
        self._active: list[_Member[P]] = []
        """Trainings that go on; the lane's alone."""

    async def train(self, plan: P, start: Callable[[LoadedModel], Generator[Pass, float, T]]) -> T:
        """Train, with whoever trains too, and return what the generator returns.

        Args:
            plan: What `may_join` is asked about.
            start: Called in the lane when there is room; yields passes, is sent their losses.

        Raises:
            PolicyModelError: The model could not be loaded, or the engine is closed.
        """
        member = _Member(plan=plan, start=start)
        with self._lock:
            self._waiting.append(member)
            needs_job, self._has_job = not self._has_job, True
        if needs_job:
            self._submit()
        return cast("T", await asyncio.wrap_future(member.future))

    def _submit(self) -> None:
        try:
            job = self._engine.start_steps(self._turns)
        except PolicyModelError as exc:
            self._fail_all(exc)
        else:
            job.add_done_callback(self._job_ended)

    def _job_ended(self, job: Future[None]) -> None:
        if (exc := job.exception()) is not None:
            self._fail_all(exc)

    def _fail_all(self, exc: BaseException) -> None:
        """Tell those that wait for a job that failed or was never begun."""
        with self._lock:
            left = [*self._waiting, *self._active]
            self._waiting.clear()
            self._active.clear()
            self._has_job = False
        for member in left:
            fail(member.future, exc)

    def _turns(self, loaded: LoadedModel) -> Generator[None, None, None]:
        """Let all trainings go on by a pass between two `yield`s, until none is left."""
        runner = self._runner = self._runner or self._make_runner(loaded)
        try:
            while self._goes_on():
                self._drop_cancelled()
                self._admit(loaded)
                self._run(runner)
                if not self._active:
                    runner.rest()
                yield
        finally:
            for member in self._active:
                _close(member)

    def _goes_on(self) -> bool:
        with self._lock:
            self._has_job = bool(self._active or self._waiting)
            return self._has_job

    def _drop_cancelled(self) -> None:
        for member in [member for member in self._active if member.future.cancelled()]:
            self._active.remove(member)
            _close(member)

    def _admit(self, loaded: LoadedModel) -> None:
        """Start those that wait, in their order, as long as there is room."""
        while (member := self._next_waiting()) is not None:
            self._active.append(member)
            self._advance(member, partial(_begin, member, loaded))

    def _next_waiting(self) -> _Member[P] | None:
        with self._lock:
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft()
            if not self._waiting:
                return None
            plans = [member.plan for member in self._active]
            if plans and not self._may_join(plans, self._waiting[0].plan):
                return None
            return self._waiting.popleft()

    def _run(self, runner: Runner) -> None:
        active = list(self._active)
        if not active:
            return
        found = runner.run([cast("Pass", member.wanted) for member in active])
        for member, outcome in zip(active, found, strict=True):
            self._advance(member, partial(_answer, member, outcome))

    def _advance(self, member: _Member[P], step: Callable[[], Pass]) -> None:
        """Let a training go on to its next pass; at its end or fault it leaves."""
        try:
            member.wanted = step()
        except StopIteration as end:
            self._active.remove(member)
            resolve(member.future, end.value)
        except BaseException as exc:  # noqa: BLE001  # the others go on; its caller is told
            self._active.remove(member)
            fail(member.future, exc)


def _begin(member: _Member[Any], loaded: LoadedModel) -> Pass:
    member.passes = member.start(loaded)
    return next(member.passes)


def _answer(member: _Member[Any], outcome: float | Exception) -> Pass:
    passes = cast("Generator[Pass, float, Any]", member.passes)
    member.wanted = None  # it holds the tensors of the pass that is over
    return passes.throw(outcome) if isinstance(outcome, Exception) else passes.send(outcome)


def _close(member: _Member[Any]) -> None:
    if member.passes is not None:
        member.passes.close()
