"""The queue before the models: first come, first served, and no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.serving.admission.request_queue import RequestQueue
from rttc_graph.serving.http_errors import HttpError
from rttc_graph.serving.serve_options import ServeOptions, is_loopback


async def hold(queue: RequestQueue, release: asyncio.Event, order: list[int], number: int) -> None:
    async with queue.place():
        order.append(number)
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_are_given_in_the_order_of_coming() -> None:
    queue, release, order = RequestQueue(2, 10, 60), asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(queue, release, order, number)) for number in range(6)]
    await settle()
    assert (order, queue.inside, queue.waiting) == ([0, 1], 2, 4)
    release.set()
    await asyncio.gather(*tasks)
    assert (order, queue.inside, queue.waiting) == ([0, 1, 2, 3, 4, 5], 0, 0)


async def test_a_full_queue_refuses_with_advice() -> None:
    queue, release = RequestQueue(1, 1, 60), asyncio.Event()
    tasks = [asyncio.create_task(hold(queue, release, [], number)) for number in range(2)]
    await settle()
    with pytest.raises(HttpError) as caught:
        async with queue.place():
            raise AssertionError("there is no place")
    assert caught.value.status == 429
    assert caught.value.retry_after_seconds == 2  # two rounds of a second, as first assumed
    release.set()
    await asyncio.gather(*tasks)


async def test_whoever_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    queue, release = RequestQueue(1, 5, 0.01), asyncio.Event()
    task = asyncio.create_task(hold(queue, release, [], 0))
    await settle()
    with pytest.raises(HttpError, match="no place became free"):
        async with queue.place():
            raise AssertionError("there is no place")
    assert (queue.inside, queue.waiting) == (1, 0)
    release.set()
    await task
    assert queue.inside == 0


@pytest.mark.parametrize("steps", range(4))
async def test_a_place_that_comes_to_one_who_leaves_goes_on_to_the_next(steps: int) -> None:
    queue, release, order = RequestQueue(1, 5, 60), asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(queue, release, order, number)) for number in range(3)]
    await settle()
    release.set()
    for _ in range(steps):  # cancelled before, while and after its place comes
        await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order in ([0, 2], [0, 1, 2])
    assert (queue.inside, queue.waiting) == (0, 0)


async def hold_long(
    queue: RequestQueue, release: asyncio.Event, order: list[str], name: str
) -> None:
    async with queue.place() as place:
        await place.lengthen()
        await place.lengthen()  # a second panel of the same request
        order.append(name)
        await release.wait()


async def test_long_requests_leave_three_quarters_of_the_places_to_short_ones() -> None:
    queue, order = RequestQueue(8, 20, 60), list[str]()
    panels, short = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(hold_long(queue, panels, order, f"p{n}")) for n in range(5)]
    await settle()
    assert (order, queue.inside, queue.waiting) == (["p0", "p1"], 2, 3)
    numbers = list[int]()
    asks = [asyncio.create_task(hold(queue, short, numbers, n)) for n in range(7)]
    await settle()
    assert (numbers, queue.inside, queue.waiting) == ([0, 1, 2, 3, 4, 5], 8, 4)
    short.set()
    await asyncio.gather(*asks)
    assert (order, queue.inside, queue.waiting) == (["p0", "p1"], 2, 3)
    panels.set()
    await asyncio.gather(*tasks)
    assert (order, queue.inside, queue.waiting) == ([f"p{n}" for n in range(5)], 0, 0)


async def test_a_place_alone_is_for_long_requests_too() -> None:
    queue, release, order = RequestQueue(1, 5, 60), asyncio.Event(), list[str]()
    release.set()
    await asyncio.gather(*(hold_long(queue, release, order, name) for name in "ab"))
    assert (order, queue.inside, queue.waiting) == (["a", "b"], 0, 0)


async def test_long_requests_that_wait_fill_the_queue_too() -> None:
    queue, release = RequestQueue(2, 1, 60), asyncio.Event()
    tasks = [asyncio.create_task(hold_long(queue, release, [], "")) for _ in range(2)]
    await settle()
    with pytest.raises(HttpError, match="2 requests are being answered, 1 wait"):
        async with queue.place() as place:
            await place.lengthen()
    assert (queue.inside, queue.waiting) == (1, 1)
    release.set()
    await asyncio.gather(*tasks)
    assert (queue.inside, queue.waiting) == (0, 0)


@pytest.mark.parametrize("patience", [0.01, 60.0])
@pytest.mark.parametrize("steps", range(4))
async def test_who_gives_up_among_the_long_leaves_no_place_behind(
    patience: float, steps: int
) -> None:
    queue, release = RequestQueue(2, 5, patience), asyncio.Event()
    tasks = [asyncio.create_task(hold_long(queue, release, [], "")) for _ in range(3)]
    await settle()
    if patience < 1:
        await asyncio.wait(tasks, timeout=0.05)
        assert queue.waiting == 0
    release.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.inside, queue.waiting) == (0, 0)
    order = list[str]()
    await hold_long(queue, release, order, "after")
    assert order == ["after"]


@pytest.mark.parametrize(
    "bad", [{"concurrency": 0}, {"queue": -1}, {"run_seconds": 0}, {"body_bytes": -5}]
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        ServeOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, local: bool) -> None:
    assert is_loopback(host) is local
