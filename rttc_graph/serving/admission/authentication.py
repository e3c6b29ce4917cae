"""Who is calling: the key of a request, checked against the store and remembered for seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.types import Scope

from rttc_graph.errors import BackendError
from rttc_graph.protocols.api_keys import SCOPES, ApiKey, ApiKeyStore, KeyScope, parse_key
from rttc_graph.serving.admission.rate_limit import RateLimit
from rttc_graph.serving.admission.request_queue import Place
from rttc_graph.serving.admission.shared_call import SharedCall
from rttc_graph.serving.http_errors import HttpError
from rttc_graph.serving.stream_start import StreamStart

__all__ = ("Authentication", "Caller", "request_caller")

_log = logging.getLogger(__name__)

_MEMORY_SECONDS = 5.0
"""Longest time that a revoked key still works."""

_MOST_REMEMBERED = 1024
"""Valid keys, and unknown ones beside them."""

_GUESSES_AT_ONCE = 20
_GUESSES_A_SECOND = 1 / 3
"""Keys never seen before that are looked up for one address: enough for the clients of a proxy that
start together, and too few to be a load."""

_LOOK_UPS_AT_ONCE = 2
"""Most look-ups of keys at once, from all addresses together; the database has 8 connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Sender of a request."""

    tenant: str | None
    """Tenant whose samples and cache the caller may use; `None` allows any, on a server without
    keys."""
    scopes: tuple[KeyScope, ...] = SCOPES
    deadline: float = float("inf")
    """Reading of `time.monotonic()` at which the request is given up."""
    stream_start: StreamStart = field(default_factory=StreamStart, compare=False)
    """Told how the request's run goes, if its answer is streamed."""
    place: Place | None = field(default=None, compare=False)
    """Place of the request in the queue of runs, on a route that has one."""

    def tenant_for(self, asked: str | None, default: str) -> str:
        """Return the tenant to work for.

        Raises:
            HttpError: The request names another one than its key's; with status 403.
        """
        if self.tenant is None:
            return asked if asked is not None else default
        if asked not in (None, self.tenant):
            raise HttpError(
                403,
                f"tenant={asked!r} is not this key's tenant {self.tenant!r}; leave it out",
                kind="PermissionError",
            )
        return self.tenant


def request_caller(request: Scope) -> Caller:
    """Return who sent a request, as the guard in front of the routes has found."""
    caller: Caller = request["state"]["rttc_caller"]
    return caller


class Authentication:
    """Finds the caller of a request.

    Args:
        store: Store of the keys; `None` for an open server without keys.
        required: Whether nobody is let in without a key even while the store has none.
        clock: Time in seconds.
    """

    def __init__(
        self,
        store: ApiKeyStore | None,
        *,
        required: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._required = required
        self._clock = clock
        self._valid: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """When each was looked for in vain; apart, so that made-up keys drive no valid one out."""
        self._guesses = RateLimit(_GUESSES_A_SECOND, _GUESSES_AT_ONCE, clock=clock)
        self._running: dict[str, SharedCall[None]] = {}
        self._look_ups = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)
        self._looked = float("-inf")
        self._look_whether_closed = SharedCall(self._look)

    async def is_open(self) -> bool:
        """Tell whether requests need no key; the first key that is ever seen closes it for good."""
        if self._required or self._store is None:
            return not self._required
        if self._clock() - self._looked >= _MEMORY_SECONDS:
            await self._look_whether_closed()
        return not self._required

    async def _look(self) -> None:
        assert self._store is not None
        self._required = not await self._store.is_empty()
        self._looked = self._clock()

    async def caller(
        self, headers: Headers, needed: KeyScope | Literal["any"], *, address: str = ""
    ) -> Caller:
        """Return who sends a request.

        Args:
            headers: Headers of the request.
            needed: What its route needs; `any` takes every valid key.
            address: What its client counts as.

        Raises:
            HttpError: There is no valid key (401), it lacks the scope (403), too many unknown keys
                came from this address (429), or the store of the keys failed (503).
        """
        try:
            return await self._caller(headers, needed, address)
        except BackendError as exc:  # whoever asks is not known yet, and is told nothing
            _log.warning("the keys cannot be looked up: %s", exc)
            raise HttpError(
                503,
                "API keys cannot be checked at the moment",
                kind="BackendError",
                retry_after_seconds=1,
            ) from exc

    async def _caller(
        self, headers: Headers, needed: KeyScope | Literal["any"], address: str
    ) -> Caller:
        if await self.is_open():
            return Caller(tenant=None)
        kind, _, text = headers.get("authorization", "").partition(" ")
        key_id = parse_key(text.strip()) if kind.lower() == "bearer" else None
        stored = None if key_id is None else await self._find(key_id, address)
        if stored is None or not stored.fits(text.strip()):
            raise HttpError(
                401,
                "a valid API key is needed: send 'Authorization: Bearer rttc_…', made by "
                "`rttc keys add`",
                kind="AuthenticationError",
                headers={"www-authenticate": "Bearer"},
            )
        if needed != "any" and needed not in stored.scopes:
            raise HttpError(
                403,
                f"this key has the scopes {', '.join(stored.scopes)}, {needed} is needed",
                kind="PermissionError",
            )
        return Caller(tenant=stored.tenant, scopes=stored.scopes)

    async def _find(self, key_id: str, address: str) -> ApiKey | None:
        """Return the key with an id, from memory or from the store.

        Whoever makes keys up costs the store a few look-ups; a key that was valid once is looked
        up again in any case.
        """
        if not self._is_fresh(key_id):
            if key_id not in self._running:
                self._running[key_id] = self._new_look_up(key_id, address)
            try:
                await self._running[key_id]()
            finally:
                self._running.pop(key_id, None)
        return self._valid[key_id][1] if key_id in self._valid else None

    def _new_look_up(self, key_id: str, address: str) -> SharedCall[None]:
        if key_id not in self._valid and (wait := self._guesses.wait_seconds(address)):
            raise HttpError(
                429,
                "too many keys that are not known came from this address; try again later",
                kind="TooManyRequests",
                retry_after_seconds=wait,
            )
        return SharedCall(partial(self._look_up, key_id))

    def _is_fresh(self, key_id: str) -> bool:
        since, _ = self._valid.get(key_id) or (self._unknown.get(key_id, float("-inf")), None)
        return self._clock() - since < _MEMORY_SECONDS

    async def _look_up(self, key_id: str) -> None:
        async with self._look_ups:
            stored = None if self._store is None else await self._store.find(key_id)
        if stored is None:
            self._valid.pop(key_id, None)
            _remember(self._unknown, key_id, self._clock())
        else:
            _remember(self._valid, key_id, (self._clock(), stored))


def _remember(memory: OrderedDict[str, Any], key_id: str, value: Any) -> None:
    """Put something into a memory, in which what was put there longest ago gives its place."""
    memory[key_id] = value
    memory.move_to_end(key_id)
    while len(memory) > _MOST_REMEMBERED:
        memory.popitem(last=False)
