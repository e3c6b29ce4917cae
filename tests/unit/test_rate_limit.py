"""How often something may come from one address, and what counts as one."""

from __future__ import annotations

import asyncio

import pytest

from rttc_graph.serving.admission.rate_limit import RateLimit
from rttc_graph.serving.admission.shared_call import SharedCall
from rttc_graph.serving.client_address import client_address_key, counted_address


def test_an_address_may_a_burst_and_then_its_rate() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 4, clock=lambda: now[0])
    assert [limit.wait_seconds("a") for _ in range(4)] == [0.0] * 4
    assert limit.wait_seconds("a") == 0.5
    assert limit.wait_seconds("b") == 0.0
    now[0] = 0.5
    assert [limit.wait_seconds("a") for _ in range(2)] == [0.0, 0.5]
    now[0] = 1000.0
    assert [limit.wait_seconds("a") for _ in range(5)] == [0.0] * 4 + [0.5]


def test_addresses_are_remembered_within_bounds() -> None:
    limit = RateLimit(1.0, 1, clock=lambda: 0.0)
    for number in range(10_000):
        limit.wait_seconds(str(number))
    assert len(limit._left) == 4096  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_what_an_address_counts_as(address: str, counted: str) -> None:
    assert counted_address(address) == counted
    assert client_address_key({"client": (address, 1)}) == counted


def test_clients_without_an_address_are_one() -> None:
    assert client_address_key({"client": None}) == client_address_key({}) == ""


async def test_a_call_is_shared_while_it_runs_and_outlives_who_leaves() -> None:
    calls, go = [0], asyncio.Event()

    async def call() -> int:
        calls[0] += 1
        await go.wait()
        return calls[0]

    shared = SharedCall(call)
    waiting = [asyncio.create_task(shared()) for _ in range(50)]
    await asyncio.sleep(0)
    waiting.pop(0).cancel()
    go.set()
    assert set(await asyncio.gather(*waiting)) == {1}
    assert await shared() == 2
