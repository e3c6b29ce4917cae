"""What was retrieved and trained for earlier queries, in Postgres: the query-state cache.

A recall is one statement. An adapter is trained once, however many requests and processes ask for
it: the first takes a lease in its row, the others listen for the news and ask twice a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pgvector import HalfVector
from psycopg.types.json import Json

from rttc_graph.errors import BudgetExceeded, ConfigurationError, QueryStateCacheError
from rttc_graph.integrations.postgres.cache.adapter_lease import AdapterNews, kept_alive
from rttc_graph.integrations.postgres.cache.adapter_rows import (
    Claim,
    find,
    find_or_claim,
    release,
    store,
)
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import cleaned
from rttc_graph.protocols import (
    AdapterLookup,
    QueryState,
    RecalledState,
    RecallRequest,
    TrainedAdapter,
)
from rttc_graph.support.identity import checked_name, query_digest

__all__ = ("CacheStats", "PostgresQueryStateCache", "Purged")

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""Interval of polling for an adapter, in case its notification was lost."""

_STORE_SECONDS = 1.0
"""Longest time that a run waits for its trained adapter to be stored; storing goes on after it."""

_RELEASE_SECONDS = 5.0
"""Longest silence of the server while a lease is released; an unreleased lease expires by
itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Size of the cache, all tenants together."""

    states: int
    adapters: int
    training: int
    """Adapters that are being trained now."""
    bytes: int
    """Size of states and adapters, as eviction counts it."""
    disk_bytes: int = field(default=0, compare=False)
    """Size of their tables and indexes on disk. What it is above `bytes` is free space for later
    adapters, or waits for a vacuum to become that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """Numbers of rows that a purge removed."""

    states: int
    adapters: int


class PostgresQueryStateCache:
    """A `QueryStateCache` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
        max_bytes: Limit for states and adapters; the least recently used are dropped first. An
            adapter of rank 8 for a model of 135 million weights has 1 to 5 MB.
        max_states: All vectors of a domain are compared at a recall: 10,000 take some 11 ms.
        max_age_seconds: How long something may stay unused.
        lease_seconds: After how long a dead process's training is taken over; a living one renews
            its lease three times as often.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_bytes: int = 2 * 2**30,
        max_states: int = 10_000,
        max_age_seconds: float = 30 * 86_400.0,
        lease_seconds: float = 30.0,
    ) -> None:
        limits = {
            "max_bytes": max_bytes,
            "max_states": max_states,
            "max_age_seconds": max_age_seconds,
            "lease_seconds": lease_seconds,
        }
        for name, value in limits.items():
            if value <= 0:
                raise ConfigurationError(f"{name}={value!r} must be above 0")
        self._database = database
        self._max_bytes = max_bytes
        self._max_states = max_states
        self._max_age_seconds = max_age_seconds
        self._lease_seconds = lease_seconds
        self._news = AdapterNews(database)

    async def recall(self, request: RecallRequest) -> RecalledState:
        """Return the nearest usable samples and adapter; both `None` on a miss."""
        parameters = {
            "tenant": checked_name("tenant", request.tenant),
            "domain": _domain(request.domain),
            "vector": HalfVector(list(request.vector)),
            "dimension": len(request.vector),
            "k": request.k,
            "choice": request.choice,
            "samples_similarity": request.samples_similarity,
            "adapter_similarity": request.adapter_similarity,
            "base_fingerprint": request.base_fingerprint,
            "training_fingerprint": request.training_fingerprint,
        }
        row = await self._briefly("recall a query state", lambda s: s.row("recall", **parameters))
        if row is None:
            raise QueryStateCacheError("a recall returned nothing, not even a miss")
        hit = row["samples"] is not None
        return RecalledState(
            samples=row["samples"],
            samples_similarity=row["samples_similarity"],
            revision=row["revision"] if hit else None,
            rejected_adapter=row["rejected_adapter"],
            adapter=row["adapter_key"],
            adapter_similarity=row["adapter_similarity"],
        )

    async def remember(self, state: QueryState) -> None:
        """Store a query's state, replacing what was stored for the same query, then evict."""
        samples = json.dumps(state.samples, default=str)
        query = str(cleaned(state.query))
        stored = {
            "tenant": checked_name("tenant", state.tenant),
            "domain": _domain(state.domain),
            "query_digest": query_digest(state.query),
            "query": query,
            "vector": HalfVector(list(state.vector)),
            "k": state.k,
            "choice": state.choice,
            "samples": Json(state.samples, dumps=lambda _: samples),
            "revision": state.revision,
            "adapter": state.adapter,
            "training_fingerprint": state.training_fingerprint,
            "reward": state.reward,
            "rejected_adapter": state.rejected_adapter,
            "bytes": len(samples) + len(query.encode()) + 2 * len(state.vector),
        }

        def work(session: DatabaseSession) -> None:
            session.execute("remember", **stored)
            self._evict(session)

        await self._briefly("remember a query state", work)

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        work = partial(find, key=checked_name("adapter", key), base_fingerprint=base_fingerprint)
        return await self._briefly("load an adapter", work)

    async def get_or_train(
        self,
        key: str,
        *,
        base_fingerprint: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None = None,
    ) -> AdapterLookup:
        """Return the adapter `key`, training it once however many requests and processes ask.

        What `train` returned is returned also when the database cannot store it, or takes its time.

        Raises:
            BudgetExceeded: The deadline passed while another request was training it.
            QueryStateCacheError: The cache failed before the training began.
        """
        claim = Claim(
            key=checked_name("adapter", key),
            base_fingerprint=base_fingerprint,
            owner=uuid.uuid4().hex,
            lease_seconds=self._lease_seconds,
        )
        waited = False
        while True:
            with self._news.about(key) as news:
                claimed = await self._find_or_claim(claim)
                if claimed == "claimed":
                    adapter = await self._train(claim, train, deadline)
                    return AdapterLookup(adapter=adapter, origin="trained")
                if claimed != "busy":
                    return AdapterLookup(adapter=claimed, origin="waited" if waited else "cache")
                waited = True
                left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise BudgetExceeded(
                        f"another request is still training adapter {key!r} at this run's deadline"
                    )
                await asyncio.wait({asyncio.wrap_future(news)}, timeout=min(left, _POLL_SECONDS))

    async def keep_adapter(self, adapter: TrainedAdapter) -> None:
        """Store an adapter that was trained elsewhere, unless it is there; a lease on it ends.

        Raises:
            QueryStateCacheError: It is larger than the cache, or the database failed.
        """
        if len(adapter.weights) > self._max_bytes:
            raise QueryStateCacheError(
                f"adapter {adapter.key!r} has {len(adapter.weights)} bytes, cache_max_bytes is "
                f"{self._max_bytes}: raise it, or lower ttt_rank or ttt_layers"
            )
        claim = Claim(
            key=checked_name("adapter", adapter.key),
            base_fingerprint=adapter.base_fingerprint,
            owner=uuid.uuid4().hex,
            lease_seconds=self._lease_seconds,
        )

        def work(session: DatabaseSession) -> None:
            store(session, claim, adapter)
            self._evict(session)

        await self._execute("store an adapter", work)

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter that did not raise the reward; no query state refers to it afterwards."""
        checked_name("adapter", key)
        await self._briefly("discard an adapter", lambda s: s.execute("discard_adapter", key=key))

    async def stats(self) -> CacheStats:
        """Return the size of the cache, all tenants together."""
        row = await self._execute("measure the cache", lambda s: s.row("cache_stats")) or {}
        return CacheStats(
            states=row["states"],
            adapters=row["adapters"],
            training=row["training"],
            bytes=row["state_bytes"] + row["adapter_bytes"],
            disk_bytes=row["disk_bytes"],
        )

    async def purge(self, *, tenant: str | None = None) -> Purged:
        """Remove a tenant's states and the adapters that only they referred to, or everything.

        Adapters that are being trained stay.
        """
        if tenant is not None:
            checked_name("tenant", tenant)

        def work(session: DatabaseSession) -> Purged:
            with session.connection.transaction():
                states = session.row("purge_states", tenant=tenant) or {}
                keys = None if tenant is None else states["keys"]
                adapters = session.row("purge_adapters", keys=keys) or {}
            return Purged(states=states["states"], adapters=adapters["adapters"])

        return await self._execute("purge the cache", work)

    async def _find_or_claim(self, claim: Claim) -> Any:
        try:
            return await self._briefly("look for an adapter", partial(find_or_claim, claim=claim))
        except (asyncio.CancelledError, QueryStateCacheError):  # the claim may have got through
            self._give_up(claim)
            raise

    async def _train(
        self,
        claim: Claim,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None,
    ) -> TrainedAdapter:
        with kept_alive(self._database, claim):
            try:
                adapter = await train()
            except BaseException:
                self._give_up(claim)
                raise
            await self._store(claim, adapter, deadline)
            return adapter

    async def _store(self, claim: Claim, adapter: TrainedAdapter, deadline: float | None) -> None:
        """Store what was trained; to fail here must not lose it, nor the time to answer with it."""
        if len(adapter.weights) > self._max_bytes:
            _LOG.warning(
                "adapter %s has %d bytes, max_bytes=%d; it is not kept",
                claim.key,
                len(adapter.weights),
                self._max_bytes,
            )
            self._give_up(claim)
            return

        def work(session: DatabaseSession) -> None:
            store(session, claim, adapter)
            self._evict(session)

        try:
            storing = self._database.submit("store an adapter", work, error=QueryStateCacheError)
        except QueryStateCacheError as exc:  # closed meanwhile
            _not_stored(claim, exc)
            return
        storing.add_done_callback(partial(_say_if_not_stored, claim))
        left = _STORE_SECONDS if deadline is None else (deadline - time.monotonic()) / 4
        # `wait` leaves it running: a caller that is cancelled now has paid for the training.
        await asyncio.wait(
            {asyncio.wrap_future(storing)}, timeout=min(_STORE_SECONDS, max(0.0, left))
        )

    def _give_up(self, claim: Claim) -> None:
        """End a lease without waiting for it: the caller may be cancelled, or fail already."""
        try:
            self._database.submit(
                "release a lease",
                partial(release, claim=claim),
                error=QueryStateCacheError,
                silence_seconds=_RELEASE_SECONDS,
            )
        except QueryStateCacheError as exc:  # closed meanwhile: the lease runs out by itself
            _LOG.warning("%s", exc)

    def _evict(self, session: DatabaseSession) -> None:
        session.execute("evict_old", max_age_seconds=self._max_age_seconds)
        session.execute("evict_least_used", max_bytes=self._max_bytes, max_states=self._max_states)

    async def _briefly(self, action: str, work: Callable[[DatabaseSession], T]) -> T:
        return await self._database.execute_work(
            action, work, error=QueryStateCacheError, within_seconds=BRIEF_SECONDS
        )

    async def _execute(self, action: str, work: Callable[[DatabaseSession], T]) -> T:
        return await self._database.execute_work(action, work, error=QueryStateCacheError)


def _say_if_not_stored(claim: Claim, storing: Future[None]) -> None:
    error = None if storing.cancelled() else storing.exception()
    if storing.cancelled() or error is not None:
        _not_stored(claim, error or "the database was closed")


def _not_stored(claim: Claim, why: object) -> None:
    _LOG.warning("adapter %s was trained and is in use, but not kept: %s", claim.key, why)


def _domain(domain: str | None) -> str:
    """Return a domain as it is stored, where no domain is the empty one."""
    return "" if domain is None else checked_name("domain", domain)
