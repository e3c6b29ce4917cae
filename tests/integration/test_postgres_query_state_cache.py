"""The query-state cache in Postgres: several processes, dead ones, a database that goes away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from knowledge_children import train_once
from postgres_children import Child
from psycopg_pool import ConnectionPool
from tcp_proxy import TcpProxy

from rttc_graph.errors import AdaptationError, ConfigurationError, QueryStateCacheError
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    CacheStats,
    PostgresQueryStateCache,
    Purged,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.migrate import migrate, read_migrations
from rttc_graph.integrations.postgres.standing_store import PostgresStandingStore
from rttc_graph.protocols import (
    AdapterLookup,
    QueryState,
    RecallRequest,
    StandingAdapter,
    TrainedAdapter,
)
from rttc_graph.testing import at_angle, trained_adapter

pytestmark = pytest.mark.usefixtures("no_blocking_calls")


@pytest.fixture
def cache(database: Database) -> PostgresQueryStateCache:
    return PostgresQueryStateCache(database, lease_seconds=1.0)


def state(query: str = "q", **more: Any) -> QueryState:
    given: dict[str, Any] = {
        "query": query,
        "vector": at_angle(0),
        "domain": "math",
        "tenant": "tenant",
        "k": 2,
        "samples": [],
        "revision": 1,
        "adapter": None,
        "training_fingerprint": "settings",
        "reward": 0.5,
    }
    return QueryState(**{**given, **more})


REQUEST = RecallRequest(
    vector=at_angle(0),
    domain="math",
    tenant="tenant",
    k=2,
    samples_similarity=0.9,
    adapter_similarity=0.9,
    base_fingerprint="base",
    training_fingerprint="settings",
)


def returning(adapter: TrainedAdapter) -> Callable[[], Awaitable[TrainedAdapter]]:
    async def train() -> TrainedAdapter:
        return adapter

    return train


async def keep(cache: PostgresQueryStateCache, key: str = "key", **more: Any) -> AdapterLookup:
    return await cache.get_or_train(
        key, base_fingerprint="base", train=returning(trained_adapter(key, **more))
    )


async def never() -> TrainedAdapter:
    raise AssertionError("nothing was to be trained")


def changed(dsn: str, statement: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(statement.encode()).rowcount


async def said(child: Child) -> Any:
    return await asyncio.to_thread(child.said)


class TestProcesses:
    async def test_racing_ones_train_once(self, postgres_dsn: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        children = [Child(train_once, postgres_dsn, log, 30.0) for _ in range(2)]
        words = [asyncio.ensure_future(said(child)) for child in children]
        await asyncio.wait(words, return_when=asyncio.FIRST_COMPLETED)
        winner = 0 if words[0].done() else 1
        assert words[winner].result() == "training"
        assert not words[1 - winner].done()
        children[winner].tell()
        assert await said(children[winner]) == "trained"
        assert await words[1 - winner] in ("waited", "cache")
        assert log.read_text() == "trained\n"
        for child in children:
            await asyncio.to_thread(child.wait)

    async def test_a_killed_ones_training_is_taken_over(
        self, postgres_dsn: str, tmp_path: Path, cache: PostgresQueryStateCache
    ) -> None:
        child = Child(train_once, postgres_dsn, tmp_path / "log", 1.0)
        assert await said(child) == "training"
        assert (await cache.stats()).training == 1
        await asyncio.to_thread(child.kill)
        assert (await keep(cache)).origin == "trained"

    async def test_a_living_ones_training_is_not_taken_over(
        self, postgres_dsn: str, tmp_path: Path
    ) -> None:
        child = Child(train_once, postgres_dsn, tmp_path / "log", 0.6)
        assert await said(child) == "training"
        started = time.monotonic()
        database = Database(postgres_dsn)
        cache = PostgresQueryStateCache(database, lease_seconds=0.6)
        waiting = asyncio.ensure_future(
            cache.get_or_train("key", base_fingerprint="base", train=never)
        )
        while time.monotonic() - started < 2.0:  # more than three leases
            await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        child.tell()
        assert (await waiting).origin == "waited"
        assert await said(child) == "trained"
        await asyncio.to_thread(child.wait)
        await asyncio.to_thread(database.close)


class TestLostDatabase:
    @pytest.fixture
    def opened(self) -> Any:
        found: list[Database] = []

        def open_database(dsn: str) -> Database:
            found.append(Database(dsn, connect_timeout_seconds=2.0))
            return found[-1]

        yield open_database
        for database in found:
            database.close()

    async def test_what_was_trained_is_not_lost(
        self, opened: Callable[[str], Database], proxied_dsn: str, tcp_proxy: TcpProxy
    ) -> None:
        cache = PostgresQueryStateCache(opened(proxied_dsn), lease_seconds=0.3)

        async def train() -> TrainedAdapter:
            tcp_proxy.refuse()
            return trained_adapter()

        found = await cache.get_or_train("key", base_fingerprint="base", train=train)
        assert (found.adapter, found.origin) == (trained_adapter(), "trained")
        tcp_proxy.refuse(False)
        assert (await keep(cache)).origin == "trained"  # the lease ran out
        assert (await keep(cache)).origin == "cache"

    async def test_a_short_loss_while_training_goes_unnoticed(
        self, opened: Callable[[str], Database], proxied_dsn: str, tcp_proxy: TcpProxy
    ) -> None:
        cache = PostgresQueryStateCache(opened(proxied_dsn), lease_seconds=0.3)

        async def train() -> TrainedAdapter:
            tcp_proxy.refuse()
            await asyncio.sleep(0.3)  # renewals fail meanwhile
            tcp_proxy.refuse(False)
            return trained_adapter()

        found = await cache.get_or_train("key", base_fingerprint="base", train=train)
        assert found.origin == "trained"
        assert await cache.load_adapter("key", base_fingerprint="base") == trained_adapter()

    async def test_without_a_database_nothing_is_trained(
        self, opened: Callable[[str], Database], proxied_dsn: str, tcp_proxy: TcpProxy
    ) -> None:
        tcp_proxy.refuse()
        cache = PostgresQueryStateCache(opened(proxied_dsn))
        for call in (
            cache.get_or_train("key", base_fingerprint="base", train=never),
            cache.recall(REQUEST),
            cache.remember(state()),
            cache.load_adapter("key", base_fingerprint="base"),
            cache.stats(),
        ):
            with pytest.raises(QueryStateCacheError, match="could not") as caught:
                await call
            assert caught.value.retryable

    async def test_an_error_of_the_training_is_its_own(
        self, opened: Callable[[str], Database], proxied_dsn: str, tcp_proxy: TcpProxy
    ) -> None:
        cache = PostgresQueryStateCache(opened(proxied_dsn))

        async def train() -> TrainedAdapter:
            tcp_proxy.refuse()
            raise AdaptationError("out of memory")

        with pytest.raises(AdaptationError, match="out of memory"):
            await cache.get_or_train("key", base_fingerprint="base", train=train)


class TestLease:
    async def test_an_expired_one_is_taken_over_and_may_still_be_stored(
        self, cache: PostgresQueryStateCache, postgres_dsn: str
    ) -> None:
        """The first trainer lost its lease, as after a long sleep; both have the same adapter."""
        started, finish = asyncio.Event(), asyncio.Event()

        async def slow() -> TrainedAdapter:
            started.set()
            await finish.wait()
            return trained_adapter()

        first = asyncio.ensure_future(
            cache.get_or_train("key", base_fingerprint="base", train=slow)
        )
        await started.wait()
        expire = "update rttc_adapter set lease_until = now() - interval '1 second', owner = 'lost'"
        await asyncio.to_thread(changed, postgres_dsn, expire)
        assert (await keep(cache)).origin == "trained"
        finish.set()
        assert (await first).origin == "trained"
        assert (await keep(cache)).origin == "cache"

    async def test_another_base_takes_the_place_of_a_stored_adapter(
        self, cache: PostgresQueryStateCache
    ) -> None:
        await keep(cache)
        other = trained_adapter(base="other")
        found = await cache.get_or_train("key", base_fingerprint="other", train=returning(other))
        assert (found.origin, found.adapter) == ("trained", other)
        assert await cache.load_adapter("key", base_fingerprint="base") is None
        assert await cache.load_adapter("key", base_fingerprint="other") == other

    async def test_those_who_cannot_listen_ask(self, postgres_dsn: str) -> None:
        with ConnectionPool(postgres_dsn, min_size=1, max_size=3, open=True) as pool:
            database = Database(pool)
            cache = PostgresQueryStateCache(database)
            started, finish = asyncio.Event(), asyncio.Event()

            async def train() -> TrainedAdapter:
                started.set()
                await finish.wait()
                return trained_adapter()

            first = asyncio.ensure_future(
                cache.get_or_train("key", base_fingerprint="base", train=train)
            )
            await started.wait()
            second = asyncio.ensure_future(
                cache.get_or_train("key", base_fingerprint="base", train=never)
            )
            await asyncio.wait({second}, timeout=0.1)
            finish.set()
            assert (await first).origin == "trained"
            assert (await second).origin == "waited"
            await asyncio.to_thread(database.close)

    async def test_more_may_wait_than_there_are_threads(
        self, cache: PostgresQueryStateCache
    ) -> None:
        started, finish = asyncio.Event(), asyncio.Event()

        async def train() -> TrainedAdapter:
            started.set()
            await finish.wait()
            return trained_adapter()

        calls = [
            asyncio.ensure_future(cache.get_or_train("key", base_fingerprint="base", train=train))
            for _ in range(40)
        ]
        await started.wait()
        await cache.remember(state())  # threads are free while they wait
        finish.set()
        origins = [one.origin for one in await asyncio.gather(*calls)]
        assert origins.count("trained") == 1

    async def test_a_listener_goes_when_nobody_waits(self, cache: PostgresQueryStateCache) -> None:
        await keep(cache)
        end = time.monotonic() + 30
        while any(thread.name == "rttc-postgres-listen" for thread in threading.enumerate()):
            assert time.monotonic() < end
            await asyncio.sleep(0.02)


class TestEviction:
    async def test_what_is_being_trained_stays(self, database: Database, postgres_dsn: str) -> None:
        cache = PostgresQueryStateCache(database, max_bytes=1500)

        async def train() -> TrainedAdapter:
            for key in ("a", "b", "c"):
                await keep(cache, key)
            assert (await cache.stats()).training == 1
            return trained_adapter("long")

        found = await cache.get_or_train("long", base_fingerprint="base", train=train)
        assert found.origin == "trained"
        assert await cache.load_adapter("long", base_fingerprint="base") is not None

    async def test_the_least_recently_used_goes(
        self, cache: PostgresQueryStateCache, database: Database, postgres_dsn: str
    ) -> None:
        for key in ("a", "b"):
            await keep(cache, key)
        hour_ago = "update rttc_adapter set used_at = now() - interval '1 hour'"
        await asyncio.to_thread(changed, postgres_dsn, hour_ago)
        await cache.load_adapter("a", base_fingerprint="base")
        small = PostgresQueryStateCache(database, max_bytes=2500)
        await keep(small, "c")
        left = [k for k in "abc" if await cache.load_adapter(k, base_fingerprint="base")]
        assert left == ["a", "c"]

    async def test_a_recall_counts_as_use(
        self, cache: PostgresQueryStateCache, postgres_dsn: str
    ) -> None:
        await keep(cache)
        await cache.remember(state(adapter="key"))
        for statement in (
            "update rttc_adapter set used_at = now() - interval '1 hour'",
            "update rttc_query_state set used_at = now() - interval '1 hour'",
        ):
            await asyncio.to_thread(changed, postgres_dsn, statement)
        await cache.recall(REQUEST)
        for statement in (
            "update rttc_adapter set bytes = 0 where used_at > now() - interval '1 minute'",
            "update rttc_query_state set bytes = 0 where used_at > now() - interval '1 minute'",
        ):
            assert await asyncio.to_thread(changed, postgres_dsn, statement) == 1

    async def test_leases_of_the_long_dead_go(
        self, cache: PostgresQueryStateCache, postgres_dsn: str
    ) -> None:
        dead = (
            "insert into rttc_adapter (key, state, owner, lease_until, base_fingerprint) "
            "values ('dead', 'training', 'x', now() - interval '2 hours', 'base')"
        )
        await asyncio.to_thread(changed, postgres_dsn, dead)
        await cache.remember(state())
        assert await asyncio.to_thread(changed, postgres_dsn, "delete from rttc_adapter") == 0

    @pytest.mark.parametrize(
        "name", ["max_bytes", "max_states", "max_age_seconds", "lease_seconds"]
    )
    async def test_limits_of_nothing_are_refused(self, database: Database, name: str) -> None:
        limits: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigurationError, match=f"{name}=0"):
            PostgresQueryStateCache(database, **limits)


async def test_a_recall_is_one_statement(
    cache: PostgresQueryStateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(cache)
    await cache.remember(state(adapter="key"))
    names: list[str] = []
    original = DatabaseSession.execute

    def execute(self: DatabaseSession, name: str, /, **parameters: Any) -> Any:
        names.append(name)
        return original(self, name, **parameters)

    monkeypatch.setattr(DatabaseSession, "execute", execute)
    found = await cache.recall(REQUEST)
    assert (found.samples, found.adapter) == ([], "key")
    assert names == ["recall"]


async def test_states_from_before_there_was_a_choice_are_of_the_nearest(empty_dsn: str) -> None:
    def remember_before() -> None:
        migrate(empty_dsn, migrations=read_migrations()[:5])
        changed(
            empty_dsn,
            "insert into rttc_query_state (tenant, domain, query_digest, query, embedding, k,"
            " samples, revision, bytes)"
            " values ('tenant', 'math', '', 'q', '[1,0,0]', 2, '[]', 1, 0)",
        )
        assert migrate(empty_dsn)[0] == "0006_samples_choice.sql"

    await asyncio.to_thread(remember_before)
    database = Database(empty_dsn)
    cache = PostgresQueryStateCache(database)
    assert (await cache.recall(REQUEST)).samples == []
    assert (await cache.recall(replace(REQUEST, choice="sift"))).samples is None
    await asyncio.to_thread(database.close)


async def test_stats_and_purges_count(cache: PostgresQueryStateCache) -> None:
    await keep(cache, "mine")
    await keep(cache, "theirs")
    await keep(cache, "both")
    await keep(cache, "nobodys")
    await cache.remember(state("1", adapter="mine"))
    await cache.remember(state("2", adapter="both"))
    await cache.remember(state("3", tenant="other", adapter="both"))
    await cache.remember(state("4", tenant="other", adapter="theirs"))
    stats = await cache.stats()
    assert stats == CacheStats(states=4, adapters=4, training=0, bytes=stats.bytes)
    assert stats.bytes > 4000
    assert await cache.purge(tenant="nobody") == Purged(states=0, adapters=0)
    assert await cache.purge(tenant="tenant") == Purged(states=2, adapters=1)
    found = await cache.recall(REQUEST)
    assert found.samples is None
    assert await cache.purge() == Purged(states=2, adapters=3)
    assert await cache.stats() == CacheStats(states=0, adapters=0, training=0, bytes=0)


async def test_what_the_cache_takes_on_disk_is_told(
    cache: PostgresQueryStateCache, postgres_dsn: str
) -> None:
    """Space of dropped adapters stays with the tables until a vacuum."""
    empty = (await cache.stats()).disk_bytes
    for number in range(4):
        await keep(cache, f"a{number}", size=200_000)
    kept = await cache.stats()
    assert kept.disk_bytes - empty > kept.bytes >= 800_000
    await cache.purge()
    await asyncio.to_thread(changed, postgres_dsn, "vacuum full rttc_adapter")
    left = await cache.stats()
    assert left.bytes == 0
    assert left.disk_bytes < kept.disk_bytes - 800_000


async def test_writers_at_the_same_time_do_not_get_in_each_others_way(
    database: Database,
) -> None:
    cache = PostgresQueryStateCache(database, max_bytes=4000, max_states=5)

    async def one(number: int) -> None:
        await keep(cache, f"key {number % 7}")
        await cache.remember(state(f"q{number % 5}", adapter=f"key {number % 7}"))
        await cache.recall(REQUEST)
        await cache.discard_adapter(f"key {number % 3}")

    await asyncio.gather(*(one(number) for number in range(60)))
    stats = await cache.stats()
    assert stats.states <= 5
    assert stats.bytes <= 4000


async def test_an_adapter_that_stands_for_a_domain_is_never_dropped(database: Database) -> None:
    cache = PostgresQueryStateCache(database, max_bytes=8, max_age_seconds=1e-6)
    standing = PostgresStandingStore(database)
    place = {"domain": "math", "base_fingerprint": "base", "tenant": "tenant"}
    for key in ("first", "second"):
        await PostgresQueryStateCache(database).keep_adapter(trained_adapter(key))
        own = StandingAdapter(domain="math", base_fingerprint="base", key=key, card={"n": key})
        await standing.put(own, tenant="tenant")
    await keep(cache, "other")
    await cache.remember(state())
    await cache.discard_adapter("second")
    await cache.purge()
    assert await cache.load_adapter("other", base_fingerprint="base") is None
    assert await cache.load_adapter("first", base_fingerprint="base") is not None

    found = await standing.find(**place)
    assert found is not None
    assert (found.key, found.card) == ("second", {"n": "second"})
    assert await standing.find(**{**place, "tenant": "other"}) is None
    assert await standing.find(**{**place, "base_fingerprint": "other"}) is None
    assert [one.key for one in await standing.all_of(tenant="tenant")] == ["second"]
    back = await standing.undo(**place)
    assert back is not None
    assert back.key == "first"
    assert await standing.undo(**place) is None
    with pytest.raises(ConfigurationError, match="'math' has no adapter of its own"):
        await standing.undo(**place)
    await cache.purge()
    assert await cache.load_adapter("first", base_fingerprint="base") is None
