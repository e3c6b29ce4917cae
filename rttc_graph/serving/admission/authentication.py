"""Who is calling: the key of a request, checked against the store and remembered for seconds."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from rttc_graph.errors import BackendError
from rttc_graph.protocols.api_keys import SCOPES, ApiKey, ApiKeyStore, KeyScope, parse_key
from rttc_graph.serving.http_errors import HttpError

__all__ = ("Authentication", "Caller", "request_caller")

_log = logging.getLogger(__name__)

_MEMORY_SECONDS = 5.0
"""Longest time that a revoked key still works."""

_MOST_REMEMBERED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Sender of a request."""

    tenant: str | None
    """Tenant whose samples and cache the caller may use; `None` allows any, on a server without
    keys."""
    scopes: tuple[KeyScope, ...] = SCOPES
    deadline: float = float("inf")
    """Reading of `time.monotonic()` at which the request is given up."""

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
        self._known: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._looked = float("-inf")

    async def is_open(self) -> bool:
        """Tell whether requests need no key; the first key that is ever seen closes it for good."""
        if self._required or self._store is None:
            return not self._required
        if self._clock() - self._looked >= _MEMORY_SECONDS:
            self._required = not await self._store.is_empty()
            self._looked = self._clock()
        return not self._required

    async def caller(self, headers: Headers, needed: KeyScope) -> Caller:
        """Return who sends a request.

        Raises:
            HttpError: There is no valid key (401), it lacks the scope (403), or the store of the
                keys failed (503).
        """
        try:
            return await self._caller(headers, needed)
        except BackendError as exc:  # whoever asks is not known yet, and is told nothing
            _log.warning("the keys cannot be looked up: %s", exc)
            raise HttpError(
                503,
                "the keys cannot be looked up just now",
                kind="BackendError",
                retry_after_seconds=1,
            ) from exc

    async def _caller(self, headers: Headers, needed: KeyScope) -> Caller:
        if await self.is_open():
            return Caller(tenant=None)
        kind, _, text = headers.get("authorization", "").partition(" ")
        key_id = parse_key(text.strip()) if kind.lower() == "bearer" else None
        stored = None if key_id is None else await self._find(key_id)
        if stored is None or not stored.fits(text.strip()):
            raise HttpError(
                401,
                "a valid API key is needed: send 'Authorization: Bearer rttc_…', made by "
                "`rttc keys add`",
                kind="AuthenticationError",
                headers={"www-authenticate": "Bearer"},
            )
        if needed not in stored.scopes:
            raise HttpError(
                403,
                f"this key has the scopes {', '.join(stored.scopes)}, {needed} is needed",
                kind="PermissionError",
            )
        return Caller(tenant=stored.tenant, scopes=stored.scopes)

    async def _find(self, key_id: str) -> ApiKey | None:
        found = self._known.get(key_id)
        if found is not None and self._clock() - found[0] < _MEMORY_SECONDS:
            return found[1]
        stored = None if self._store is None else await self._store.find(key_id)
        self._known[key_id] = (self._clock(), stored)
        self._known.move_to_end(key_id)
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return stored
