"""Query-state cache in memory, for tests of graphs without a database.

It behaves as the one in Postgres does, which `rttc_graph.testing` holds it to; it serves all event
loops and threads of one process.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rttc_graph.errors import BudgetExceeded
from rttc_graph.protocols import (
    AdapterLookup,
    QueryState,
    RecalledState,
    RecallRequest,
    TrainedAdapter,
)
from rttc_graph.support.identity import checked_name, query_digest
from rttc_graph.testing.memory_parts import MemoryKnowledgeBase, cosine

__all__ = ("MemoryQueryStateCache",)


@dataclass(slots=True)
class _Adapter:
    adapter: TrainedAdapter
    used_at: float


@dataclass(slots=True)
class _State:
    state: QueryState
    bytes: int
    used_at: float


class MemoryQueryStateCache:
    """A `QueryStateCache` of one process.

    Args:
        knowledge_base: Knows the current revisions; without it the newest that was remembered is
            taken for the current one.
        max_bytes: Limit for states and adapters; the least recently used are dropped first.
        max_states: Limit for the number of states; the least recently used are dropped first.
        max_age_seconds: How long something may stay unused.
        clock: Seconds, for tests of the age.
    """

    def __init__(
        self,
        knowledge_base: MemoryKnowledgeBase | None = None,
        *,
        max_bytes: int = 2**30,
        max_states: int = 10_000,
        max_age_seconds: float = 30 * 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._knowledge_base = knowledge_base
        self._max_bytes = max_bytes
        self._max_states = max_states
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._lock = threading.RLock()
        self._states: dict[tuple[str, str | None, bytes], _State] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._training: dict[str, Future[None]] = {}

    async def recall(self, request: RecallRequest) -> RecalledState:
        """Return the nearest usable samples and adapter; both `None` on a miss."""
        _check_place(request.tenant, request.domain)
        with self._lock:
            current = self._current(request.domain, request.tenant)
            near = [
                (cosine(held.state.vector, request.vector), held)
                for (tenant, domain, _), held in self._states.items()
                if (tenant, domain) == (request.tenant, request.domain)
                and held.state.revision == current
                and len(held.state.vector) == len(request.vector)
            ]
            near.sort(key=lambda pair: -pair[0])
            return self._recalled(near, request)

    async def remember(self, state: QueryState) -> None:
        """Store a query's state, then evict."""
        _check_place(state.tenant, state.domain)
        place = (state.tenant, state.domain, query_digest(state.query))
        with self._lock:
            held = self._states.get(place)
            if held is not None and held.state.revision > state.revision:
                return
            if state.adapter not in self._adapters:
                state = replace(state, adapter=None)
            if state.adapter is None and held is not None:
                state = _with_adapter_of(held.state, state)
            size = len(json.dumps(state.samples, default=str)) + len(state.query)
            self._states[place] = _State(copy.deepcopy(state), size, self._clock())
            self._evict()

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        checked_name("adapter", key)
        with self._lock:
            held = self._adapters.get(key)
            if held is None or held.adapter.base_fingerprint != base_fingerprint:
                return None
            held.used_at = self._clock()
            return held.adapter

    async def get_or_train(
        self,
        key: str,
        *,
        base_fingerprint: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None = None,
    ) -> AdapterLookup:
        """Return the adapter `key`, training it once however many requests ask."""
        waited = False
        while True:
            adapter = await self.load_adapter(key, base_fingerprint=base_fingerprint)
            if adapter is not None:
                return AdapterLookup(adapter=adapter, origin="waited" if waited else "cache")
            with self._lock:
                other = self._training.get(key)
                if other is None:
                    mine: Future[None] = Future()
                    self._training[key] = mine
            if other is None:
                return AdapterLookup(adapter=await self._train(key, train), origin="trained")
            waited = True
            await _wait_for(other, key, deadline)

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter; no query state refers to it afterwards."""
        with self._lock:
            self._adapters.pop(key, None)

    def _recalled(self, near: list[tuple[float, _State]], request: RecallRequest) -> RecalledState:
        samples = self._first(
            near,
            lambda similarity, state: (
                similarity >= request.samples_similarity
                and (state.k, state.choice) == (request.k, request.choice)
            ),
        )
        adapter = self._first(
            near,
            lambda similarity, state: (
                similarity >= request.adapter_similarity
                and state.training_fingerprint == request.training_fingerprint
                and self._fits(state.adapter, request.base_fingerprint)
            ),
        )
        return RecalledState(
            samples=copy.deepcopy(samples[1].samples) if samples else None,
            samples_similarity=samples[0] if samples else None,
            revision=samples[1].revision if samples else None,
            rejected_adapter=samples[1].rejected_adapter if samples else None,
            adapter=adapter[1].adapter if adapter else None,
            adapter_similarity=adapter[0] if adapter else None,
        )

    def _first(
        self,
        near: list[tuple[float, _State]],
        is_usable: Callable[[float, QueryState], bool],
    ) -> tuple[float, QueryState] | None:
        for similarity, held in near:
            if is_usable(similarity, held.state):
                held.used_at = self._clock()
                return similarity, held.state
        return None

    def _fits(self, key: str | None, base_fingerprint: str | None) -> bool:
        held = self._adapters.get(key) if key else None
        return held is not None and held.adapter.base_fingerprint == base_fingerprint

    def _current(self, domain: str | None, tenant: str) -> int | None:
        known = self._knowledge_base.revision(domain, tenant) if self._knowledge_base else None
        if known is not None:
            return known
        place = (tenant, domain)
        return max(
            (h.state.revision for p, h in self._states.items() if p[:2] == place), default=None
        )

    async def _train(
        self, key: str, train: Callable[[], Awaitable[TrainedAdapter]]
    ) -> TrainedAdapter:
        try:
            adapter = await train()
            with self._lock:
                if len(adapter.weights) <= self._max_bytes:
                    self._adapters[key] = _Adapter(adapter, self._clock())
                self._evict()
            return adapter
        finally:
            with self._lock:
                self._training.pop(key).set_result(None)

    def _evict(self) -> None:
        """Remove what is old, then the least recently used beyond the limits."""
        oldest = self._clock() - self._max_age_seconds
        held = [
            (one.used_at, one.bytes, 1, _remover(self._states, place))
            for place, one in self._states.items()
        ] + [
            (one.used_at, len(one.adapter.weights), 0, _remover(self._adapters, key))
            for key, one in self._adapters.items()
        ]
        held.sort(key=lambda item: -item[0])
        total = states = 0
        for used_at, size, is_state, remove in held:
            total += size
            states += is_state
            too_many = bool(is_state) and states > self._max_states
            if used_at < oldest or total > self._max_bytes or too_many:
                remove()


async def _wait_for(other: Future[None], key: str, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    await asyncio.wait({asyncio.wrap_future(other)}, timeout=left)
    if not other.done():
        raise BudgetExceeded(
            f"another request is still training adapter {key!r} at this run's deadline"
        )


def _remover(held: dict[Any, Any], key: object) -> Callable[[], Any]:
    return lambda: held.pop(key, None)


def _with_adapter_of(old: QueryState, new: QueryState) -> QueryState:
    if old.revision != new.revision:
        return new
    return replace(
        new,
        adapter=old.adapter,
        training_fingerprint=old.training_fingerprint,
        reward=old.reward,
    )


def _check_place(tenant: str, domain: str | None) -> None:
    checked_name("tenant", tenant)
    if domain is not None:
        checked_name("domain", domain)
