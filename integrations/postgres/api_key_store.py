"""API keys in Postgres, so that all servers over one database know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.protocols.api_keys import ApiKey

__all__ = ("PostgresApiKeyStore",)


class PostgresApiKeyStore:
    """An `ApiKeyStore` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> ApiKey:
        """Store a key and return it with the time of its making."""
        values = {
            "id": key.id,
            "digest": key.digest,
            "tenant": key.tenant,
            "scopes": list(key.scopes),
            "name": key.name,
        }

        def work(session: DatabaseSession) -> ApiKey:
            row = session.row("add_api_key", **values)
            assert row is not None  # "returning" of an insert that did not raise
            return replace(key, created_at=row["created_at"])

        return await self._database.execute_work("store an API key", work, error=BackendError)

    async def find(self, key_id: str) -> ApiKey | None:
        """Return a key, revoked or not."""

        def work(session: DatabaseSession) -> ApiKey | None:
            row = session.row("api_key", id=key_id)
            return None if row is None else _key(row)

        return await self._database.execute_work("look up an API key", work, error=BackendError)

    async def is_empty(self) -> bool:
        """Tell whether no key was ever added."""

        def work(session: DatabaseSession) -> bool:
            row = session.row("any_api_key")
            return row is None or not row["found"]

        return await self._database.execute_work("look for API keys", work, error=BackendError)

    async def all(self) -> list[ApiKey]:
        """Return all keys, oldest first."""

        def work(session: DatabaseSession) -> list[ApiKey]:
            return [_key(row) for row in session.rows("api_keys")]

        return await self._database.execute_work("list the API keys", work, error=BackendError)

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key for good and return it.

        Raises:
            ConfigurationError: There is no such key.
        """

        def work(session: DatabaseSession) -> ApiKey | None:
            session.execute("revoke_api_key", id=key_id)
            row = session.row("api_key", id=key_id)
            return None if row is None else _key(row)

        revoked = await self._database.execute_work("revoke an API key", work, error=BackendError)
        if revoked is None:
            raise ConfigurationError(f"there is no API key {key_id!r}: see `rttc keys list`")
        return revoked


def _key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        id=row["id"],
        digest=bytes(row["digest"]),
        tenant=row["tenant"],
        scopes=tuple(row["scopes"]),
        name=row["name"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
