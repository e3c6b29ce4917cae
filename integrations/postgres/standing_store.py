"""Adapters of whole domains in Postgres: which one is in force, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import cleaned_jsonb
from rttc_graph.protocols import StandingAdapter
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresStandingStore",)

T = TypeVar("T")

MAX_KEPT = 5
"""Adapters that are kept of a domain, the one in force among them: some 10 MB each."""


class PostgresStandingStore:
    """Adapters that stand for domains, in a migrated database, whose cache has their weights.

    Args:
        database: Where they are; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, *, domain: str, base_fingerprint: str, tenant: str
    ) -> StandingAdapter | None:
        """Return the adapter that stands for a domain; `None` if none does.

        Raises:
            BackendError: It cannot be looked up.
        """
        asked = _place(domain, base_fingerprint, tenant)
        row = await self._briefly(
            "look up the adapter of a domain", lambda s: s.row("standing_adapter", **asked)
        )
        return None if row is None else _standing(row)

    async def all_of(self, *, tenant: str) -> list[StandingAdapter]:
        """Return the adapters in force of all domains and base models, by domain.

        Raises:
            BackendError: They cannot be read.
        """
        rows = await self._briefly(
            "list the adapters of domains",
            lambda s: s.rows("standing_adapters", tenant=checked_name("tenant", tenant)),
        )
        return [_standing(row) for row in rows]

    async def put(self, adapter: StandingAdapter, *, tenant: str) -> None:
        """Let a stored adapter stand for its domain, over the one that did, which is kept.

        Raises:
            BackendError: Nothing was changed; the adapter may not be stored.
        """
        place = _place(adapter.domain, adapter.base_fingerprint, tenant)
        row = {**place, "key": checked_name("adapter", adapter.key)}

        def work(session: DatabaseSession) -> None:
            with session.connection.transaction():
                session.execute(
                    "put_standing_adapter", **row, card=cleaned_jsonb(dict(adapter.card))
                )
                session.execute("drop_standing_adapters", **place, kept=MAX_KEPT)

        await self._briefly("let an adapter stand for a domain", work)

    async def undo(
        self, *, domain: str, base_fingerprint: str, tenant: str
    ) -> StandingAdapter | None:
        """Take away the adapter that stands for a domain, and return the one that does now.

        Raises:
            ConfigurationError: None does.
            BackendError: Nothing was changed.
        """
        place = _place(domain, base_fingerprint, tenant)

        def work(session: DatabaseSession) -> dict[str, Any] | None:
            with session.connection.transaction():
                if session.row("take_standing_adapter", **place) is None:
                    raise ConfigurationError(
                        f"the domain {domain!r} has no adapter of its own for this policy model: "
                        "rttc status lists those there are, rttc improve trains one"
                    )
                return session.row("standing_adapter", **place)

        row = await self._briefly("take away the adapter of a domain", work)
        return None if row is None else _standing(row)

    async def _briefly(self, action: str, work: Callable[[DatabaseSession], T]) -> T:
        return await self._database.execute_work(
            action, work, error=BackendError, within_seconds=BRIEF_SECONDS
        )


def _place(domain: str, base_fingerprint: str, tenant: str) -> dict[str, str]:
    return {
        "domain": checked_name("domain", domain),
        "base_fingerprint": base_fingerprint,
        "tenant": checked_name("tenant", tenant),
    }


def _standing(row: Mapping[str, Any]) -> StandingAdapter:
    return StandingAdapter(
        domain=row["domain"],
        base_fingerprint=row["base_fingerprint"],
        key=row["adapter_key"],
        card=row["card"],
        created_at=row["created_at"],
    )
