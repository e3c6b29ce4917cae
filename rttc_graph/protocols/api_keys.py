"""API keys of a server: what they look like, what is stored of them, what they allow.

A key is random, so its digest is stored plain: there is nothing to guess that a slow or salted
digest would protect, and a request must not wait for one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, get_args

from rttc_graph.errors import ConfigurationError
from rttc_graph.support.identity import checked_name

__all__ = ("SCOPES", "ApiKey", "ApiKeyStore", "KeyScope", "checked_scopes", "new_key", "parse_key")

KeyScope = Literal["ask", "runs:read", "kb:read", "kb:write"]
"""Ask questions; read the tenant's finished runs; search the knowledge base; fill and empty it."""

SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

_SECRET_BYTES = 32
_KEY = re.compile(r"rttc_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Stored record of a key; the key itself is not stored."""

    id: str
    """16 hexadecimal characters, part of the key, for lists and for revoking it."""
    digest: bytes
    """SHA-256 of the key."""
    tenant: str
    """Tenant whose samples and cache the bearer works with."""
    scopes: tuple[KeyScope, ...]
    name: str
    """Note on who or what uses the key."""
    created_at: datetime | None = None
    revoked_at: datetime | None = None

    def fits(self, key: str) -> bool:
        """Tell, in constant time, whether this is the key and may still be used."""
        is_same = hmac.compare_digest(self.digest, key_digest(key))
        return is_same and self.revoked_at is None


class ApiKeyStore(Protocol):
    """Store of API keys."""

    async def find(self, key_id: str) -> ApiKey | None:
        """Return a key, revoked or not.

        Raises:
            BackendError: The store failed.
        """
        ...

    async def is_empty(self) -> bool:
        """Tell whether no key was ever added; one that has been revoked counts."""
        ...


def new_key(
    tenant: str, scopes: Collection[str] = ("ask",), *, name: str = ""
) -> tuple[str, ApiKey]:
    """Make a key; return it, for its bearer alone, and what to store.

    Raises:
        ConfigurationError: The tenant's or the key's name cannot be kept, or a scope is unknown.
    """
    key_id = secrets.token_hex(8)
    key = f"rttc_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    stored = ApiKey(
        id=key_id,
        digest=key_digest(key),
        tenant=checked_name("tenant", tenant),
        scopes=checked_scopes(scopes),
        name=name and checked_name("name", name),
    )
    return key, stored


def parse_key(text: str) -> str | None:
    """Return the id in a key, or `None` if the text is no key."""
    match = _KEY.fullmatch(text)
    return match and match[1]


def key_digest(key: str) -> bytes:
    """Return the digest that is stored instead of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def checked_scopes(scopes: Collection[str]) -> tuple[KeyScope, ...]:
    """Return the scopes in their usual order.

    Raises:
        ConfigurationError: A scope is unknown, or there is none.
    """
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise ConfigurationError(f"unknown scopes {unknown!r}; there are {', '.join(SCOPES)}")
    if not scopes:
        raise ConfigurationError(f"a key needs a scope: one or more of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in scopes)
