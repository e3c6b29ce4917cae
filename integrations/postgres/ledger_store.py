"""Ledgers of finished runs in Postgres."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from datetime import date

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import cleaned, cleaned_jsonb
from rttc_graph.protocols import RunRecord
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresLedgerStore", "RunStatistics")

_PRUNE_SECONDS = 3600.0
"""Interval of deleting old runs, in seconds."""

_MOST_DAYS = 36_500
"""A hundred years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """Figures of the runs of one domain that one arm answered on one day (UTC)."""

    domain: str
    """Empty for runs that named none."""
    day: date
    arm: str
    """Arm whose answer was returned."""
    runs: int
    accepted: int
    """Runs whose answer reached τr."""
    seconds: float
    """Seconds of all runs together."""
    tokens: int
    look_ups: int
    """Times that the query-state cache was asked."""
    samples_hits: int
    adapter_hits: int
    """Adapters recalled for a near query, or found under the digest of their samples."""
    seconds_saved: float
    """Training that adapter hits made needless, less what the look-ups took."""


class PostgresLedgerStore:
    """A `LedgerStore` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
        max_age_days: Age at which finished runs of all tenants are deleted, looked for at most once
            an hour while runs are stored; `None` keeps them.
    """

    def __init__(self, database: Database, *, max_age_days: float | None = None) -> None:
        if max_age_days is not None and max_age_days <= 0:
            raise ConfigurationError(f"max_age_days={max_age_days!r} must be above 0")
        self._database = database
        self._max_age_days = max_age_days
        self._pruned_at = -math.inf

    async def append(self, run: RunRecord) -> None:
        """Store one finished run; what PostgreSQL cannot store of its texts is replaced."""
        row = {
            **cleaned(asdict(run)),
            "tenant": checked_name("tenant", run.tenant),
            "entries": cleaned_jsonb(run.entries),
            "sources": cleaned_jsonb(run.sources),
            "candidate": None if run.candidate is None else cleaned_jsonb(run.candidate),
        }
        await self._database.execute_work(
            "store a run",
            lambda s: s.execute("append_run", **row),
            error=BackendError,
            within_seconds=BRIEF_SECONDS,
        )
        now = time.monotonic()
        if self._max_age_days is not None and now - self._pruned_at >= _PRUNE_SECONDS:
            self._pruned_at = now
            await self.prune(older_than_days=self._max_age_days)

    async def prune(
        self, *, older_than_days: float, tenant: str | None = None, dry_run: bool = False
    ) -> int:
        """Delete finished runs and return how many, or with `dry_run` would be.

        Args:
            older_than_days: Age from which on they go, above 0.
            tenant: Tenant whose runs are deleted; `None` for all tenants.
            dry_run: Only count them.

        Raises:
            ConfigurationError: `older_than_days` is not above 0.
            BackendError: Nothing was deleted.
        """
        if not 0 < older_than_days <= _MOST_DAYS:
            raise ConfigurationError(
                f"older_than_days={older_than_days!r} must be above 0 and at most {_MOST_DAYS}"
            )
        if tenant is not None:
            checked_name("tenant", tenant)
        name = "count_old_runs" if dry_run else "prune_runs"

        def work(session: DatabaseSession) -> int:
            row = session.row(name, days=older_than_days, tenant=tenant)
            return row["runs"] if row else 0

        return await self._database.execute_work("prune old runs", work, error=BackendError)

    async def recent(self, *, tenant: str, count: int = 20) -> list[RunRecord]:
        """Return the tenant's last runs, newest first."""
        checked_name("tenant", tenant)

        def work(session: DatabaseSession) -> list[RunRecord]:
            rows = session.rows("recent_runs", tenant=tenant, count=count)
            return [RunRecord(**row) for row in rows]

        return await self._database.execute_work("read the last runs", work, error=BackendError)

    async def statistics(self, *, tenant: str, days: int | None = None) -> list[RunStatistics]:
        """Return the tenant's runs by domain, day and arm, newest day first.

        Args:
            tenant: Tenant whose runs count.
            days: How far back; `None` for all.
        """
        checked_name("tenant", tenant)

        def work(session: DatabaseSession) -> list[RunStatistics]:
            rows = session.rows("run_statistics", tenant=tenant, days=days)
            return [RunStatistics(**row) for row in rows]

        return await self._database.execute_work("add up the runs", work, error=BackendError)
