"""Which domains have an adapter of their own, looked up once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from rttc_graph.errors import BackendError
from rttc_graph.protocols import AdapterTrainer, StandingAdapter, TrainedAdapter

__all__ = ("REFRESH_SECONDS", "AdapterStore", "DomainAdapters", "StandingStore", "adapter_loader")

_LOG = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""Longest time that a look-up is kept in memory: as for calibrations, a new adapter is used within
a minute, without a restart."""


class AdapterStore(Protocol):
    """Has the weights of adapters, as the query-state cache does."""

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        ...


class StandingStore(Protocol):
    """Knows which adapter stands for a domain."""

    async def find(
        self, *, domain: str, base_fingerprint: str, tenant: str
    ) -> StandingAdapter | None:
        """Return the adapter that stands for a domain; `None` if none does."""
        ...


class DomainAdapters:
    """Implements `StandingAdapters` over a store.

    Args:
        store: Knows which adapters stand for domains.
        adapters: Has their weights.
        base_fingerprint: Returns the digest of the policy model.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        store: StandingStore,
        adapters: AdapterStore,
        base_fingerprint: Callable[[], Awaitable[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._adapters = adapters
        self._base_fingerprint = base_fingerprint
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, str | None]] = {}

    async def standing_adapter(self, *, domain: str, tenant: str) -> str | None:
        """Return the key of a domain's adapter; `None` if it has none that can be used.

        Raises:
            BackendError: It cannot be looked up, and was not before.
        """
        place, now = (tenant, domain), self._clock()
        known = self._known.get(place)
        if known is not None and now - known[0] < REFRESH_SECONDS:
            return known[1]
        try:
            base = await self._base_fingerprint()
            found = await self._store.find(domain=domain, base_fingerprint=base, tenant=tenant)
            key = None if found is None else found.key
            is_known = known is not None and known[1] == key
            if key is not None and not is_known and await self.stored(key) is None:
                _LOG.warning(
                    "the adapter %s of the domain %r is damaged, so the plain model answers: train "
                    "it anew (rttc improve), or take it away (rttc improve --undo)",
                    key,
                    domain,
                )
                key = None
        except BackendError:
            if known is not None:  # better the adapter of some minutes ago than another model
                return known[1]
            raise
        self._known[place] = now, key
        return key

    async def stored(self, key: str) -> TrainedAdapter | None:
        """Return a stored adapter for the policy model; `None` if it is gone."""
        base = await self._base_fingerprint()
        return await self._adapters.load_adapter(key, base_fingerprint=base)


def adapter_loader(
    trainer: AdapterTrainer, adapters: AdapterStore
) -> Callable[[str], Awaitable[object]]:
    """Return what makes a stored adapter resident by its key, if it is not.

    Of one that is not stored nothing is said here: whoever answers with it will.
    """

    async def load(key: str) -> None:
        if await trainer.is_resident(key):
            return
        base = await trainer.base_fingerprint()
        stored = await adapters.load_adapter(key, base_fingerprint=base)
        if stored is not None:
            await trainer.load(stored)

    return load
