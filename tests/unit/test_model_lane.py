"""The lane: one thread, short jobs first, steps in turn, and nobody left waiting."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future

import pytest

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.concurrency.worker_threads import (
    SWITCH_SECONDS,
    TRAINING_SWITCH_SECONDS,
    shortest_turns,
)
from rttc_graph.integrations.transformers.model_lane import (
    FOREGROUND_SECONDS,
    FOREGROUND_SHARE,
    ModelLane,
)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lane(clock: Clock) -> Iterator[ModelLane]:
    lane = ModelLane("test", clock=clock)
    yield lane
    lane.close()


@pytest.fixture
def gate(lane: ModelLane) -> Iterator[threading.Event]:
    """Holds the lane until it is set, so that a test can queue several jobs at once."""
    gate = threading.Event()
    lane.submit(gate.wait)
    yield gate
    gate.set()


def counting(log: list[str], name: str, steps: int) -> Callable[[], Generator[None, None, str]]:
    def job() -> Generator[None, None, str]:
        try:
            for step in range(steps):
                log.append(f"{name}{step}")
                yield
        finally:
            log.append(f"{name} over")
        return name

    return job


def test_every_job_runs_in_one_thread_of_the_lanes_own(lane: ModelLane) -> None:
    threads = [lane.submit(threading.current_thread).result() for _ in range(3)]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_a_short_job_goes_before_the_next_step(lane: ModelLane) -> None:
    log: list[str] = []

    def job() -> Generator[None, None, None]:
        log.append("step 0")
        lane.submit(lambda: log.append("short"))
        yield
        log.append("step 1")

    lane.submit_steps(job).result()
    assert log == ["step 0", "short", "step 1"]


def test_a_training_ends_before_the_next_one_begins(lane: ModelLane, gate: threading.Event) -> None:
    log: list[str] = []
    futures = [lane.submit_steps(counting(log, name, 3)) for name in "ab"]
    gate.set()
    assert [future.result() for future in futures] == ["a", "b"]
    assert log == ["a0", "a1", "a2", "a over", "b0", "b1", "b2", "b over"]


def test_foreground_steps_go_before_background_steps(
    lane: ModelLane, gate: threading.Event
) -> None:
    log: list[str] = []
    slow = lane.submit_steps(counting(log, "slow", 2))
    fast = lane.submit_steps(counting(log, "fast", 2), background=False)
    gate.set()
    slow.result()
    fast.result()
    assert log == ["fast0", "fast1", "fast over", "slow0", "slow1", "slow over"]


def test_foreground_steps_that_a_short_job_queues_go_before_the_next_background_step(
    lane: ModelLane,
) -> None:
    log: list[str] = []
    queued: list[Future[str]] = []

    def enlist() -> None:
        queued.append(lane.submit_steps(counting(log, "fast", 1), background=False))

    def training() -> Generator[None, None, None]:
        log.append("slow0")
        lane.submit(enlist)
        yield
        log.append("slow1")

    lane.submit_steps(training).result()
    queued[0].result()
    assert log == ["slow0", "fast0", "fast over", "slow1"]


def test_a_background_step_is_due_after_its_share_of_foreground_time(
    lane: ModelLane, gate: threading.Event, clock: Clock
) -> None:
    log: list[str] = []
    step_seconds = 10.0

    def training() -> Generator[None, None, None]:
        for step in range(2):
            log.append(f"train{step}")
            clock.now += step_seconds
            yield

    def generation() -> Generator[None, None, None]:
        for _ in range(8):
            log.append("token")
            clock.now += FOREGROUND_SHARE * step_seconds / 3
            yield

    done = [lane.submit_steps(training), lane.submit_steps(generation, background=False)]
    gate.set()
    for future in done:
        future.result()
    # The first step is due after FOREGROUND_SECONDS, the second after three times its length.
    assert clock.now > FOREGROUND_SECONDS
    assert log[:6] == ["token", "train0", "token", "token", "token", "train1"]


@pytest.mark.parametrize(
    ("waiting", "seconds", "expected"),
    [
        pytest.param("nothing", 0.0, False, id="nothing-waits"),
        pytest.param("short", 0.0, True, id="a-short-job-waits"),
        pytest.param("background", 0.0, False, id="training-waits-but-is-not-due"),
        pytest.param("background", FOREGROUND_SECONDS, True, id="training-is-due"),
        pytest.param("foreground", 0.0, True, id="another-foreground-job-waits"),
    ],
)
def test_a_foreground_step_is_asked_to_end(
    lane: ModelLane, clock: Clock, waiting: str, seconds: float, expected: bool
) -> None:
    queued: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "short": lambda: lane.submit(lambda: None),
        "background": lambda: lane.submit_steps(counting([], "b", 1)),
        "foreground": lambda: lane.submit_steps(counting([], "f", 1), background=False),
    }

    def job() -> Generator[None, None, bool]:
        queued[waiting]()
        yield
        clock.now += seconds
        return lane.is_wanted()

    if waiting == "short":  # it would be served at the yield

        def asked_at_once() -> Generator[None, None, bool]:
            queued[waiting]()
            yield from ()
            return lane.is_wanted()

        assert lane.submit_steps(asked_at_once, background=False).result() is expected
        return
    assert lane.submit_steps(job, background=False).result() is expected


def test_cancelling_closes_the_generator_before_anything_else_runs(lane: ModelLane) -> None:
    log: list[str] = []
    futures: list[Future[str]] = []

    def cancel_from_within() -> Generator[None, None, str]:
        try:
            log.append("step")
            lane.submit(lambda: log.append("short"))
            futures[0].cancel()
            yield
            log.append("never")
        finally:
            log.append("closed")
        return ""

    ready = threading.Event()

    def start() -> Generator[None, None, str]:
        ready.wait()
        return (yield from cancel_from_within())

    futures.append(lane.submit_steps(start))
    ready.set()
    with pytest.raises(CancelledError):
        futures[0].result()
    lane.submit(lambda: None).result()
    assert log == ["step", "closed", "short"]


@pytest.mark.parametrize("stepped", [False, True], ids=["short", "stepped"])
def test_a_job_cancelled_while_queued_never_starts(
    lane: ModelLane, gate: threading.Event, stepped: bool
) -> None:
    log: list[str] = []
    future: Future[object]
    if stepped:
        future = lane.submit_steps(counting(log, "x", 1))
    else:
        future = lane.submit(lambda: log.append("x"))
    assert future.cancel()
    gate.set()
    lane.submit(lambda: None).result()
    assert log == []


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        pytest.param(ValueError("bad"), ValueError, id="an-ordinary-error"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="not-even-an-Exception"),
        pytest.param(StopIteration(1), RuntimeError, id="one-that-asyncio-refuses"),
    ],
)
def test_an_error_goes_to_its_own_waiter_and_the_lane_lives_on(
    lane: ModelLane, raised: BaseException, seen: type[BaseException]
) -> None:
    def fail() -> None:
        raise raised

    with pytest.raises(seen):
        lane.submit(fail).result()
    assert lane.submit(lambda: "alive").result() == "alive"


def test_an_error_in_a_step_goes_to_its_own_waiter(lane: ModelLane, gate: threading.Event) -> None:
    def fail() -> Generator[None, None, None]:
        yield
        raise ValueError("step 2")

    failing = lane.submit_steps(fail)
    other = lane.submit_steps(counting([], "x", 3))
    gate.set()
    with pytest.raises(ValueError, match="step 2"):
        failing.result()
    assert other.result() == "x"


def test_loops_in_several_threads_share_a_lane(lane: ModelLane) -> None:
    async def ask(number: int) -> int:
        return await asyncio.wrap_future(lane.submit(lambda: number))

    async def ask_all(start: int) -> list[int]:
        return list(await asyncio.gather(*(ask(start + i) for i in range(20))))

    found: dict[int, list[int]] = {}

    def in_a_loop_of_its_own(start: int) -> None:
        found[start] = asyncio.run(ask_all(start))

    threads = [threading.Thread(target=in_a_loop_of_its_own, args=(n,)) for n in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: list(range(n, n + 20)) for n in (0, 100, 200)}


async def test_waiting_for_the_lane_never_blocks_the_loop(
    lane: ModelLane, no_blocking_calls: None
) -> None:
    assert await asyncio.wrap_future(lane.submit(lambda: 1)) == 1
    assert await asyncio.wrap_future(lane.submit_steps(counting([], "x", 2))) == "x"


async def test_a_cancelled_task_stops_its_steps(lane: ModelLane) -> None:
    log: list[str] = []
    started, closed = threading.Event(), threading.Event()

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                started.set()
                yield
        finally:
            log.append("closed")
            closed.set()

    async def run() -> None:
        await asyncio.wrap_future(lane.submit_steps(endless))

    task = asyncio.create_task(run())
    await asyncio.to_thread(started.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(closed.wait)
    assert log == ["closed"]


def test_closing_fails_what_is_queued_and_half_done(lane: ModelLane, gate: threading.Event) -> None:
    log: list[str] = []
    half_done = lane.submit_steps(counting(log, "x", 2))
    closing = lane.submit(lane.close)
    queued = lane.submit(lambda: "too late")
    gate.set()
    closing.result()
    for future in (half_done, queued):
        with pytest.raises(PolicyModelError, match=r"engine of 'test' is closed: make a new one"):
            future.result()


def test_closing_closes_a_generator_at_its_step(lane: ModelLane) -> None:
    log: list[str] = []

    def job() -> Generator[None, None, None]:
        try:
            lane.close()
            yield
        finally:
            log.append("closed")

    with pytest.raises(PolicyModelError, match="is closed"):
        lane.submit_steps(job).result()
    assert log == ["closed"]


def test_a_closed_lane_takes_no_jobs(lane: ModelLane) -> None:
    lane.close()
    with pytest.raises(PolicyModelError, match="is closed"):
        lane.submit(lambda: None)


def test_a_forgotten_lane_ends_its_thread() -> None:
    lane = ModelLane("forgotten")
    thread = lane.submit(threading.current_thread).result()
    del lane
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_lane_whose_thread_fails_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0])
    lane = ModelLane("broken", clock=lambda: next(times))  # the second look at the clock raises

    def steps() -> Generator[None, None, None]:
        yield
        yield

    futures = [lane.submit_steps(steps) for _ in range(3)]
    for future in futures:
        with pytest.raises(PolicyModelError, match="is closed: make a new one"):
            future.result(20)
    with pytest.raises(PolicyModelError, match="is closed"):
        lane.submit(lambda: None)
    assert "ended by a fault of its own" in caplog.text


@pytest.mark.parametrize(("before", "after"), [(5e-3, SWITCH_SECONDS), (1e-2, 1e-2), (1e-4, 1e-4)])
def test_threads_take_short_turns_unless_the_host_chose_their_length(
    before: float, after: float
) -> None:
    kept = sys.getswitchinterval()
    sys.setswitchinterval(before)
    try:
        lane = ModelLane("turns")
        lane.submit(lambda: None).result(5)
        assert sys.getswitchinterval() == pytest.approx(after)
        lane.close()
    finally:
        sys.setswitchinterval(kept)


@pytest.mark.parametrize(
    ("before", "within"), [(SWITCH_SECONDS, TRAINING_SWITCH_SECONDS), (1e-2, 1e-2)]
)
def test_turns_are_shortest_while_any_training_computes(before: float, within: float) -> None:
    kept = sys.getswitchinterval()
    sys.setswitchinterval(before)
    try:
        with shortest_turns():
            with shortest_turns():
                assert sys.getswitchinterval() == pytest.approx(within)
            assert sys.getswitchinterval() == pytest.approx(within)
        assert sys.getswitchinterval() == pytest.approx(before)
    finally:
        sys.setswitchinterval(kept)
