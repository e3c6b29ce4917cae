"""Whose request it is: what keys cost the store, made-up ones above all."""

from __future__ import annotations

import asyncio

import pytest
from starlette.datastructures import Headers

from rttc_graph.protocols.api_keys import ApiKey, new_key
from rttc_graph.serving.admission.authentication import Authentication
from rttc_graph.serving.http_errors import HttpError


class CountingKeys:
    """A store that tells how often it was asked, and how often at once."""

    def __init__(self) -> None:
        self.stored: dict[str, ApiKey] = {}
        self.look_ups = self.most_at_once = self.asked_whether_empty = 0
        self._now = 0

    def add(self) -> str:
        key, stored = new_key("acme")
        self.stored[stored.id] = stored
        return key

    async def find(self, key_id: str) -> ApiKey | None:
        self.look_ups += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        return self.stored.get(key_id)

    async def is_empty(self) -> bool:
        self.asked_whether_empty += 1
        await asyncio.sleep(0)
        return not self.stored


class Clock:
    """Time that passes by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> CountingKeys:
    return CountingKeys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authentication(store: CountingKeys, clock: Clock) -> Authentication:
    return Authentication(store, required=True, clock=clock)


async def status(authentication: Authentication, key: str, address: str = "192.0.2.1") -> int:
    """Return what a request with a key gets."""
    try:
        headers = Headers({"authorization": f"Bearer {key}"})
        await authentication.caller(headers, "ask", address=address)
    except HttpError as exc:
        return exc.status
    return 200


async def test_made_up_keys_of_one_address_end_at_a_limit(
    store: CountingKeys, authentication: Authentication, clock: Clock
) -> None:
    seen = [await status(authentication, new_key("x")[0]) for _ in range(200)]
    assert seen == [401] * 20 + [429] * 180
    assert store.look_ups == 20

    clock.now += 60  # a key every three seconds is looked up again
    assert [await status(authentication, new_key("x")[0]) for _ in range(21)] == [401] * 20 + [429]


async def test_who_guesses_keeps_nobody_else_out(
    store: CountingKeys, authentication: Authentication, clock: Clock
) -> None:
    known, new = store.add(), store.add()
    assert await status(authentication, known) == 200
    for _ in range(2000):
        await status(authentication, new_key("x")[0])

    clock.now += 10  # what was remembered is to be looked up again
    for _ in range(100):
        await status(authentication, new_key("x")[0])
    assert await status(authentication, known) == 200
    assert await status(authentication, new) == 429
    assert await status(authentication, new, address="198.51.100.7") == 200


async def test_made_up_keys_of_many_addresses_take_few_connections_and_drive_no_key_out(
    store: CountingKeys, authentication: Authentication
) -> None:
    known = store.add()
    assert await status(authentication, known) == 200
    guesses = (
        status(authentication, new_key("x")[0], f"198.51.{n // 250}.{n % 250}") for n in range(2000)
    )
    assert set(await asyncio.gather(*guesses)) == {401}
    assert store.most_at_once <= 2
    asked = store.look_ups
    assert await status(authentication, known) == 200
    assert store.look_ups == asked


async def test_the_same_key_is_looked_up_once_for_all_who_send_it_at_once(
    store: CountingKeys, authentication: Authentication
) -> None:
    for key, expected in ((store.add(), 200), (new_key("x")[0], 401)):
        before = store.look_ups
        seen = await asyncio.gather(*(status(authentication, key) for _ in range(100)))
        assert set(seen) == {expected}
        assert store.look_ups - before == 1


async def test_a_revoked_key_is_refused_once_it_was_looked_up_again(
    store: CountingKeys, authentication: Authentication, clock: Clock
) -> None:
    key = store.add()
    assert await status(authentication, key) == 200
    store.stored.clear()
    clock.now += 6
    assert [await status(authentication, key) for _ in range(3)] == [401] * 3


async def test_whether_keys_are_needed_is_asked_once_for_all(
    store: CountingKeys, clock: Clock
) -> None:
    authentication = Authentication(store, clock=clock)
    await asyncio.gather(*(authentication.is_open() for _ in range(50)))
    assert store.asked_whether_empty == 1
