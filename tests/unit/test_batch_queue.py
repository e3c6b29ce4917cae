from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from blockbuster import blockbuster_ctx

from rttc_graph.integrations.concurrency.batch_queue import BatchQueue


class Squares:
    """Squares numbers, waits at a gate, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.entered.release()
        assert self.gate.wait(20)
        if -13 in numbers:
            raise ValueError("-13 is unlucky")
        return [number * number for number in numbers]


async def entered(squares: Squares) -> None:
    await asyncio.to_thread(squares.entered.acquire)


def queue(squares: Squares, **options: int | bool) -> BatchQueue[int, int]:
    return BatchQueue(squares, name="test", **{"batch_size": 4, **options})  # type: ignore[arg-type]  # table of options


async def busy(squares: Squares, of: BatchQueue[int, int]) -> asyncio.Task[list[int]]:
    """Start a call that stays in the worker until the gate opens."""
    squares.gate.clear()
    task = asyncio.create_task(of.submit([0]))
    await entered(squares)
    return task


@pytest.mark.parametrize(
    ("numbers", "batches"),
    [
        pytest.param([], [], id="nothing-calls-nothing"),
        pytest.param([3], [[3]], id="one-item-is-one-call"),
        pytest.param([1, 2, 3, 4], [[1, 2, 3, 4]], id="a-full-batch-is-one-call"),
        pytest.param([1, 2, 3, 4, 5], [[1, 2, 3, 4], [5]], id="more-than-a-batch-is-cut"),
    ],
)
async def test_results_come_in_order(numbers: list[int], batches: list[list[int]]) -> None:
    squares = Squares()
    assert await queue(squares).submit(numbers) == [number * number for number in numbers]
    assert squares.batches == batches


async def test_waiting_callers_share_a_call() -> None:
    squares = Squares()
    shared = queue(squares)
    first = await busy(squares, shared)
    others = [asyncio.create_task(shared.submit([n, n])) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    squares.gate.set()
    assert await first == [0]
    assert await asyncio.gather(*others) == [[1, 1], [4, 4], [9, 9]]
    assert squares.batches == [[0], [1, 1, 2, 2], [3, 3]]


async def test_callers_keep_their_own_calls_where_they_must() -> None:
    squares = Squares()
    own = queue(squares, coalesce=False)
    first = await busy(squares, own)
    others = [asyncio.create_task(own.submit([n])) for n in (1, 2)]
    await asyncio.sleep(0)
    squares.gate.set()
    await asyncio.gather(first, *others)
    assert squares.batches == [[0], [1], [2]]


async def test_several_threads_work_at_the_same_time() -> None:
    squares = Squares()
    wide = queue(squares, threads=2)
    first, second = await busy(squares, wide), await busy(squares, wide)
    squares.gate.set()
    assert list(await asyncio.gather(first, second)) == [[0], [0]]


async def test_a_bad_item_fails_only_its_own_caller() -> None:
    squares = Squares()
    shared = queue(squares)
    first = await busy(squares, shared)
    bad, good = (asyncio.create_task(shared.submit([n])) for n in (-13, 2))
    await asyncio.sleep(0)
    squares.gate.set()
    await first
    assert await good == [4]
    with pytest.raises(ValueError, match="unlucky"):
        await bad
    assert squares.batches[1] == [-13, 2]


async def test_a_lone_item_waits_for_one_batch_of_a_long_call_not_for_all() -> None:
    squares = Squares()
    shared = queue(squares, batch_size=2)
    squares.gate.clear()
    long = asyncio.create_task(shared.submit([1, 2, 3, 4, 5, 6]))
    await entered(squares)
    short = asyncio.create_task(shared.submit([9]))
    await asyncio.sleep(0)
    squares.gate.set()
    assert await short == [81]
    assert squares.batches[1] == [9]
    assert await long == [1, 4, 9, 16, 25, 36]


async def test_a_cancelled_call_is_not_worked_on() -> None:
    squares = Squares()
    shared = queue(squares, coalesce=False)
    first = await busy(squares, shared)
    dropped = asyncio.create_task(shared.submit([7]))
    await asyncio.sleep(0)
    dropped.cancel()
    kept = asyncio.create_task(shared.submit([2]))
    await asyncio.gather(dropped, return_exceptions=True)
    squares.gate.set()
    await asyncio.gather(first, kept)
    assert squares.batches == [[0], [2]]


async def test_a_call_cancelled_in_the_worker_takes_no_further_piece() -> None:
    squares = Squares()
    shared = queue(squares, batch_size=1)
    squares.gate.clear()
    dropped = asyncio.create_task(shared.submit([1, 2, 3]))
    await entered(squares)
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)
    squares.gate.set()
    assert await shared.submit([5]) == [25]
    assert squares.batches == [[1], [5]]


async def test_a_missing_result_is_an_error_not_a_shift() -> None:
    short: BatchQueue[int, int] = BatchQueue(lambda items: items[1:], name="test", batch_size=4)
    with pytest.raises(ValueError, match="1 results for 2 items"):
        await short.submit([1, 2])


async def test_a_stop_iteration_does_not_hang_the_caller() -> None:
    def end(items: list[int]) -> list[int]:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await BatchQueue(end, name="test", batch_size=1).submit([1])


def test_one_lane_serves_event_loops_in_many_threads() -> None:
    shared = queue(Squares())

    def squares_in_a_loop(n: int) -> list[int]:
        return asyncio.run(shared.submit([n, n + 1]))

    with ThreadPoolExecutor(4) as pool:
        results = pool.map(squares_in_a_loop, range(40))
    assert list(results) == [[n * n, (n + 1) ** 2] for n in range(40)]


async def test_the_event_loop_is_never_blocked() -> None:
    def slow(items: list[int]) -> list[int]:
        time.sleep(0)
        return items

    with blockbuster_ctx():
        blocking: BatchQueue[int, int] = BatchQueue(slow, name="test", batch_size=2)
        assert await blocking.submit([1, 2, 3]) == [1, 2, 3]


async def test_the_threads_end_with_the_lane() -> None:
    dying: BatchQueue[int, int] = BatchQueue(Squares(), name="dying", batch_size=1, threads=2)
    await dying.submit([1, 2])
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("dying-")]
    assert len(threads) == 2
    del dying
    gc.collect()
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


LEAVING = """
import asyncio, time
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue

def work(items):
    time.sleep(0.5)
    print("ended", flush=True)
    return items

queue = BatchQueue(work, name="t", batch_size=1, threads=2)

async def main():
    try:
        await asyncio.wait_for(queue.submit([1]), 0.1)
    except TimeoutError:
        print("left", flush=True)

asyncio.run(main())
"""


def test_the_batch_in_hand_ends_before_the_interpreter_does() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["left", "ended"]
