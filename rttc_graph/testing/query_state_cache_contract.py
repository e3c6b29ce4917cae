"""What every query-state cache must do."""

# ruff: noqa: D102 - the names of the tests say what they are for
from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rttc_graph.errors import AdaptationError, BudgetExceeded, ConfigurationError
from rttc_graph.protocols import (
    AdapterLookup,
    KnowledgeBase,
    QueryState,
    QueryStateCache,
    RecallRequest,
    TrainedAdapter,
)
from rttc_graph.state import Sample
from rttc_graph.testing.inputs import (
    BAD_NAMES,
    ODD_NAMES,
    TENANT,
    at_angle,
    fill,
    recalled_sample,
    trained_adapter,
)

__all__ = ("QueryStateCacheContract",)


class QueryStateCacheContract:
    """Subclass it and define two fixtures over the same empty store.

    `knowledge_base` is one as for `KnowledgeBaseContract`; `open_cache` opens a cache with the
    limits given by name: `max_bytes`, `max_states`, `max_age_seconds`.
    """

    @pytest.fixture
    def cache(self, open_cache: Callable[..., QueryStateCache]) -> QueryStateCache:
        return open_cache()

    def state(self, angle: float = 0, **more: Any) -> QueryState:
        given: dict[str, Any] = {
            "query": f"query at {angle}",
            "vector": at_angle(angle),
            "domain": "math",
            "tenant": TENANT,
            "k": 2,
            "samples": [recalled_sample(1), recalled_sample(2)],
            "revision": 1,
            "adapter": None,
            "training_fingerprint": "settings",
            "reward": 0.5,
        }
        return QueryState(**{**given, **more})

    def request(self, angle: float = 0, **more: Any) -> RecallRequest:
        given: dict[str, Any] = {
            "vector": at_angle(angle),
            "domain": "math",
            "tenant": TENANT,
            "k": 2,
            "samples_similarity": 0.95,
            "adapter_similarity": 0.9,
            "base_fingerprint": "base",
            "training_fingerprint": "settings",
        }
        return RecallRequest(**{**given, **more})

    async def keep(self, cache: QueryStateCache, adapter: TrainedAdapter) -> AdapterLookup:
        async def train() -> TrainedAdapter:
            return adapter

        return await cache.get_or_train(
            adapter.key, base_fingerprint=adapter.base_fingerprint, train=train
        )

    async def test_an_empty_cache_misses(self, cache: QueryStateCache) -> None:
        found = await cache.recall(self.request())
        assert (found.samples, found.adapter, found.revision) == (None, None, None)
        assert await cache.load_adapter("key", base_fingerprint="base") is None

    async def test_the_nearest_state_is_recalled_whole(self, cache: QueryStateCache) -> None:
        far = self.state(15, samples=[recalled_sample(9)])
        near = self.state(5)
        await cache.remember(near)
        await cache.remember(far)
        found = await cache.recall(self.request(0))
        assert found.samples == near.samples
        assert found.samples_similarity == pytest.approx(0.9962, abs=2e-3)  # cos 5°
        assert found.revision == 1

    @pytest.mark.parametrize(
        ("angle", "samples", "adapter"),
        [
            pytest.param(0, True, True, id="the-same"),
            pytest.param(17, True, True, id="near"),  # cos 17° = 0.956
            pytest.param(20, False, True, id="near-enough-for-the-adapter"),  # cos 20° = 0.940
            pytest.param(27, False, False, id="far"),  # cos 27° = 0.891
        ],
    )
    async def test_each_level_has_its_own_threshold(
        self, cache: QueryStateCache, angle: float, samples: bool, adapter: bool
    ) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(adapter="key"))
        found = await cache.recall(self.request(angle))
        assert (found.samples is not None, found.adapter is not None) == (samples, adapter)

    @pytest.mark.parametrize(
        ("change", "samples", "adapter"),
        [
            pytest.param({"k": 3}, False, True, id="another-k"),
            pytest.param({"choice": "sift"}, False, True, id="chosen-otherwise"),
            pytest.param({"domain": "law"}, False, False, id="another-domain"),
            pytest.param({"domain": None}, False, False, id="no-domain"),
            pytest.param({"tenant": "other"}, False, False, id="another-tenant"),
            pytest.param({"base_fingerprint": "other"}, True, False, id="another-base"),
            pytest.param({"base_fingerprint": None}, True, False, id="no-base"),
            pytest.param({"training_fingerprint": "x"}, True, False, id="other-settings"),
            pytest.param({"vector": [1.0, 0.0]}, False, False, id="another-dimension"),
        ],
    )
    async def test_only_what_fits_the_request_is_recalled(
        self, cache: QueryStateCache, change: dict[str, Any], samples: bool, adapter: bool
    ) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(adapter="key"))
        found = await cache.recall(self.request(**change))
        assert (found.samples is not None, found.adapter is not None) == (samples, adapter)

    async def test_the_levels_may_come_from_different_states(self, cache: QueryStateCache) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(10, adapter="key", k=5))
        await cache.remember(self.state(1))
        found = await cache.recall(self.request(0))
        assert (found.samples is not None, found.adapter) == (True, "key")
        assert found.adapter_similarity == pytest.approx(0.985, abs=2e-3)  # cos 10°

    async def test_the_choice_of_the_last_samples_of_a_query_counts(
        self, cache: QueryStateCache
    ) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(adapter="key"))
        chosen = [recalled_sample(7)]
        await cache.remember(
            self.state(choice="sift", samples=chosen, training_fingerprint="other settings")
        )
        by_sift = await cache.recall(self.request(choice="sift"))
        by_nearness = await cache.recall(self.request())
        assert (by_sift.samples, by_nearness.samples) == (chosen, None)
        assert by_nearness.adapter == "key"  # it was trained on the nearest all the same

    async def test_a_query_without_a_domain_has_states_of_its_own(
        self, cache: QueryStateCache
    ) -> None:
        await cache.remember(self.state(domain=None))
        assert (await cache.recall(self.request(domain=None))).samples is not None
        assert (await cache.recall(self.request())).samples is None

    @pytest.mark.parametrize("domain", [pytest.param("math", id="of-it"), None])
    async def test_a_change_of_the_domain_makes_its_states_stale(
        self, cache: QueryStateCache, knowledge_base: KnowledgeBase, domain: str | None
    ) -> None:
        await self.keep(cache, trained_adapter())
        await fill(knowledge_base, 2)
        await cache.remember(self.state(domain=domain, revision=1, adapter="key"))
        assert (await cache.recall(self.request(domain=domain))).samples is not None
        await fill(knowledge_base, 1, first=5)
        found = await cache.recall(self.request(domain=domain))
        assert (found.samples, found.adapter) == (None, None)

    async def test_a_change_of_another_domain_leaves_states_alone(
        self, cache: QueryStateCache, knowledge_base: KnowledgeBase
    ) -> None:
        await fill(knowledge_base, 2)
        await cache.remember(self.state())
        await fill(knowledge_base, 2, domain="law")
        await fill(knowledge_base, 2, tenant="other", first=7)
        assert (await cache.recall(self.request())).samples is not None

    async def test_remembering_a_query_again_replaces_its_state(
        self, cache: QueryStateCache
    ) -> None:
        await cache.remember(self.state())
        await cache.remember(self.state(samples=[recalled_sample(7)]))
        assert (await cache.recall(self.request())).samples == [recalled_sample(7)]

    async def test_a_state_without_adapter_leaves_the_one_of_its_revision(
        self, cache: QueryStateCache
    ) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(adapter="key"))
        await cache.remember(self.state(training_fingerprint="other"))
        assert (await cache.recall(self.request())).adapter == "key"
        await cache.remember(self.state(revision=2))
        assert (await cache.recall(self.request())).adapter is None

    async def test_a_late_state_does_not_replace_a_newer_one(self, cache: QueryStateCache) -> None:
        await cache.remember(self.state(revision=3))
        await cache.remember(self.state(revision=2, samples=[recalled_sample(7)]))
        assert (await cache.recall(self.request())).samples == self.state().samples

    async def test_an_adapter_that_is_not_stored_is_not_recalled(
        self, cache: QueryStateCache
    ) -> None:
        await cache.remember(self.state(adapter="key"))
        found = await cache.recall(self.request())
        assert (found.samples is not None, found.adapter) == (True, None)

    async def test_an_adapter_comes_back_byte_for_byte(self, cache: QueryStateCache) -> None:
        adapter = trained_adapter(size=300_000)
        assert (await self.keep(cache, adapter)).origin == "trained"
        assert await cache.load_adapter("key", base_fingerprint="base") == adapter
        assert await cache.load_adapter("key", base_fingerprint="other") is None

    async def test_an_adapter_is_trained_once(self, cache: QueryStateCache) -> None:
        started = asyncio.Event()
        finish = asyncio.Event()
        trainings: list[str] = []

        async def train() -> TrainedAdapter:
            trainings.append("one")
            started.set()
            await finish.wait()
            return trained_adapter()

        calls = [
            asyncio.ensure_future(cache.get_or_train("key", base_fingerprint="base", train=train))
            for _ in range(12)
        ]
        await started.wait()
        finish.set()
        found = await asyncio.gather(*calls)
        assert trainings == ["one"]
        assert [one.origin for one in found].count("trained") == 1
        assert all(one.adapter == trained_adapter() for one in found)
        again = await cache.get_or_train("key", base_fingerprint="base", train=train)
        assert again.origin == "cache"

    async def test_adapters_of_other_keys_are_trained_at_the_same_time(
        self, cache: QueryStateCache
    ) -> None:
        both = asyncio.Barrier(2)

        async def keep(key: str) -> AdapterLookup:
            async def train() -> TrainedAdapter:
                await both.wait()
                return trained_adapter(key)

            return await cache.get_or_train(key, base_fingerprint="base", train=train)

        found = await asyncio.gather(keep("a"), keep("b"))
        assert [one.adapter.key for one in found] == ["a", "b"]

    async def test_a_failed_training_is_passed_on_and_the_next_trains(
        self, cache: QueryStateCache
    ) -> None:
        started, fail = asyncio.Event(), asyncio.Event()

        async def broken() -> TrainedAdapter:
            started.set()
            await fail.wait()
            raise AdaptationError("loss is not finite")

        first = asyncio.ensure_future(
            cache.get_or_train("key", base_fingerprint="base", train=broken)
        )
        await started.wait()
        second = asyncio.ensure_future(self.keep(cache, trained_adapter()))
        fail.set()
        with pytest.raises(AdaptationError, match="not finite"):
            await first
        assert (await second).origin == "trained"

    async def test_a_cancelled_training_leaves_the_place_to_the_next(
        self, cache: QueryStateCache
    ) -> None:
        started = asyncio.Event()

        async def endless() -> TrainedAdapter:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        first = asyncio.ensure_future(
            cache.get_or_train("key", base_fingerprint="base", train=endless)
        )
        await started.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await self.keep(cache, trained_adapter())).origin == "trained"

    async def test_waiting_ends_at_the_deadline(self, cache: QueryStateCache) -> None:
        started, finish = asyncio.Event(), asyncio.Event()

        async def slow() -> TrainedAdapter:
            started.set()
            await finish.wait()
            return trained_adapter()

        first = asyncio.ensure_future(
            cache.get_or_train("key", base_fingerprint="base", train=slow)
        )
        await started.wait()
        with pytest.raises(BudgetExceeded, match="'key'"):
            await cache.get_or_train(
                "key", base_fingerprint="base", train=slow, deadline=time.monotonic() + 0.1
            )
        finish.set()
        assert (await first).origin == "trained"

    async def test_a_stored_adapter_is_returned_after_the_deadline(
        self, cache: QueryStateCache
    ) -> None:
        await self.keep(cache, trained_adapter())
        found = await cache.get_or_train(
            "key", base_fingerprint="base", train=_never, deadline=time.monotonic() - 1
        )
        assert found.origin == "cache"

    async def test_a_discarded_adapter_is_gone_everywhere(self, cache: QueryStateCache) -> None:
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(adapter="key"))
        await cache.discard_adapter("key")
        await cache.discard_adapter("never stored")
        found = await cache.recall(self.request())
        assert (found.samples is not None, found.adapter) == (True, None)
        assert await cache.load_adapter("key", base_fingerprint="base") is None
        assert (await self.keep(cache, trained_adapter())).origin == "trained"

    async def test_bytes_are_bounded_and_the_oldest_goes_first(
        self, open_cache: Callable[..., QueryStateCache]
    ) -> None:
        cache = open_cache(max_bytes=2500)
        for key in ("first", "second", "third"):
            await self.keep(cache, trained_adapter(key, size=1000))
        left = [
            key
            for key in ("first", "second", "third")
            if await cache.load_adapter(key, base_fingerprint="base")
        ]
        assert left == ["second", "third"]

    async def test_an_adapter_beyond_the_limit_is_returned_but_not_kept(
        self, open_cache: Callable[..., QueryStateCache]
    ) -> None:
        cache = open_cache(max_bytes=500)
        big = trained_adapter(size=1000)
        assert (await self.keep(cache, big)).adapter == big
        assert (await self.keep(cache, big)).origin == "trained"

    async def test_the_number_of_states_is_bounded(
        self, open_cache: Callable[..., QueryStateCache]
    ) -> None:
        cache = open_cache(max_states=2)
        for angle in (0, 60, 120):
            await cache.remember(self.state(angle))
        hits = [(await cache.recall(self.request(a))).samples is not None for a in (0, 60, 120)]
        assert hits == [False, True, True]

    async def test_what_was_not_used_for_long_goes(
        self, open_cache: Callable[..., QueryStateCache]
    ) -> None:
        cache = open_cache(max_age_seconds=0.05)
        await self.keep(cache, trained_adapter())
        await cache.remember(self.state(0, adapter="key"))
        await asyncio.sleep(0.1)  # the age is the store's own clock
        await cache.remember(self.state(60))
        assert (await cache.recall(self.request(0))).samples is None
        assert await cache.load_adapter("key", base_fingerprint="base") is None

    @pytest.mark.parametrize("domain", ODD_NAMES.values(), ids=ODD_NAMES)
    async def test_any_text_may_name_a_domain(self, cache: QueryStateCache, domain: str) -> None:
        await cache.remember(self.state(domain=domain))
        await cache.remember(self.state(tenant=domain))
        assert (await cache.recall(self.request(domain=domain))).samples is not None
        assert (await cache.recall(self.request(tenant=domain))).samples is not None

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    async def test_a_name_that_cannot_be_kept_is_refused(
        self, cache: QueryStateCache, name: str
    ) -> None:
        calls = [
            cache.remember(self.state(domain=name)),
            cache.remember(self.state(tenant=name)),
            cache.recall(self.request(domain=name)),
            cache.recall(self.request(tenant=name)),
            cache.load_adapter(name, base_fingerprint="base"),
            cache.get_or_train(name, base_fingerprint="base", train=_never),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"domain=|tenant=|adapter="):
                await call

    @pytest.mark.parametrize(
        "text", ["", "a\0b", "half a pair \ud800", "'; drop table x; --", "x" * 100_000]
    )
    async def test_any_query_and_any_sample_is_remembered(
        self, cache: QueryStateCache, text: str
    ) -> None:
        samples: list[Sample] = [{**recalled_sample(1), "question": text}]
        await cache.remember(self.state(query=text, samples=samples))
        assert (await cache.recall(self.request())).samples == samples

    def test_one_cache_serves_several_event_loops(self, cache: QueryStateCache) -> None:
        trainings: list[int] = []
        origins: list[str] = []

        async def train() -> TrainedAdapter:
            trainings.append(1)
            await asyncio.sleep(0.05)
            return trained_adapter()

        async def one() -> None:
            await cache.remember(self.state())
            await cache.recall(self.request())
            found = await cache.get_or_train("key", base_fingerprint="base", train=train)
            origins.append(found.origin)

        threads = [threading.Thread(target=lambda: asyncio.run(one())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(trainings) == 1
        assert len(origins) == 4


async def _never() -> TrainedAdapter:
    raise AssertionError("nothing was to be trained")
