"""Ledgers of finished runs in Postgres."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date

from rttc_graph.errors import BackendError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import Session
from rttc_graph.integrations.postgres.json_values import cleaned, cleaned_jsonb
from rttc_graph.protocols import RunRecord
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresLedgerStore", "RunStatistics")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """What the runs of one domain did on one day, by UTC."""

    domain: str
    """Empty for runs that named none."""
    day: date
    runs: int
    accepted: int
    """Runs whose answer reached τr."""
    direct: int
    """Runs by the arm whose answer was returned."""
    rag: int
    ttt: int
    seconds: float
    """Of all runs together."""
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
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, run: RunRecord) -> None:
        """Store one finished run; what PostgreSQL cannot store of its texts is replaced."""
        row = {
            **cleaned(asdict(run)),
            "tenant": checked_name("tenant", run.tenant),
            "entries": cleaned_jsonb(run.entries),
        }
        await self._database.run(
            "store a run", lambda s: s.execute("append_run", **row), error=BackendError
        )

    async def recent(self, *, tenant: str, count: int = 20) -> list[RunRecord]:
        """Return the tenant's last runs, newest first."""
        checked_name("tenant", tenant)

        def work(session: Session) -> list[RunRecord]:
            rows = session.rows("recent_runs", tenant=tenant, count=count)
            return [RunRecord(**row) for row in rows]

        return await self._database.run("read the last runs", work, error=BackendError)

    async def statistics(self, *, tenant: str, days: int | None = None) -> list[RunStatistics]:
        """Return the tenant's runs by domain and day, newest day first.

        Args:
            tenant: Whose runs.
            days: How far back; `None` for all.
        """
        checked_name("tenant", tenant)

        def work(session: Session) -> list[RunStatistics]:
            rows = session.rows("run_statistics", tenant=tenant, days=days)
            return [RunStatistics(**row) for row in rows]

        return await self._database.run("add up the runs", work, error=BackendError)
