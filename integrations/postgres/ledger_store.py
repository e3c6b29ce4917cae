"""Ledgers of finished runs in Postgres."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import checked_text, cleaned, cleaned_jsonb
from rttc_graph.protocols import Rating, RunRecord
from rttc_graph.protocols.run_history import (
    LISTED_CHARACTERS,
    FinishedRun,
    RunFilter,
    RunPage,
    RunStatistics,
    checked_run_page,
)
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresLedgerStore", "RunStatistics")

_PRUNE_SECONDS = 3600.0
"""Interval of deleting old runs, in seconds."""

_MOST_DAYS = 36_500
"""A hundred years."""


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

    async def list_runs(
        self, which: RunFilter, *, tenant: str, limit: int, after: str | None = None
    ) -> RunPage:
        """Return a page of a tenant's runs, newest first, texts cut."""
        at, run_id = checked_run_page(limit, after)
        texts = {"domain": which.domain, "arm": which.arm, "contains": which.contains}
        for name, text in {**texts, "run_id": run_id}.items():
            checked_text(name, text or "")
        asked = {
            **asdict(which),
            "tenant": checked_name("tenant", tenant),
            "at": at,
            "run_id": run_id,
            "characters": LISTED_CHARACTERS,
            "count": limit + 1,
        }
        rows = await self._database.execute_work(
            "list runs", lambda s: s.rows("listed_runs", **asked), error=BackendError
        )
        runs = [_finished(row) for row in rows[:limit]]
        return RunPage(runs=runs, next=_page_end(runs[-1]) if len(rows) > limit else None)

    async def find_run(self, run_id: str, *, tenant: str) -> FinishedRun | None:
        """Return a run with everything that is stored of it."""
        asked = {"run_id": checked_name("run", run_id), "tenant": checked_name("tenant", tenant)}
        row = await self._database.execute_work(
            "read a run",
            lambda s: s.row("finished_run", **asked),
            error=BackendError,
            within_seconds=BRIEF_SECONDS,
        )
        return None if row is None else _finished(row)

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


_FIELDS = tuple(field.name for field in fields(RunRecord))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _finished(row: dict[str, Any]) -> FinishedRun:
    rating = None
    if row["is_right"] is not None:
        rating = Rating(
            run_id=row["run_id"],
            is_right=row["is_right"],
            answer=row["right_answer"],
            note=row["note"],
            correction=row["correction"],
        )
    run = RunRecord(**{name: row[name] for name in _FIELDS})
    return FinishedRun(run=run, created_at=row["created_at"], rating=rating)


def _page_end(last: FinishedRun) -> str:
    """Return what continues a list behind a run."""
    return f"{(last.created_at - _EPOCH) // timedelta(microseconds=1)}:{last.run.run_id}"
