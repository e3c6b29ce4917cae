"""People's ratings of finished runs in Postgres."""

from __future__ import annotations

from typing import Any

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import checked_text
from rttc_graph.protocols import RatedRun, Rating
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresRatingStore",)


class PostgresRatingStore:
    """A `RatingStore` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rate(self, rating: Rating, *, tenant: str) -> RatedRun:
        """Store a rating in the place of an earlier one of the run."""
        given = {
            "run_id": checked_name("run", rating.run_id),
            "tenant": checked_name("tenant", tenant),
            "is_right": rating.is_right,
            "answer": _checked("the right answer", rating.answer),
            "note": _checked("the note", rating.note),
            "correction": rating.correction,
        }

        def work(session: DatabaseSession) -> dict[str, Any] | None:
            with session.connection.transaction():
                session.execute("rate_run", **given)
                return session.row("rated_run", run_id=rating.run_id, tenant=tenant)

        return _found(await self._briefly("store a rating", work), rating.run_id)

    async def rated_run(self, run_id: str, *, tenant: str) -> RatedRun:
        """Return a run with its rating."""
        asked = {"run_id": checked_name("run", run_id), "tenant": checked_name("tenant", tenant)}

        def work(session: DatabaseSession) -> dict[str, Any] | None:
            return session.row("rated_run", **asked)

        row = await self._briefly("read a rating", work)
        return _found(row, run_id)

    async def rated_runs(self, *, tenant: str, pending: bool = False) -> list[RatedRun]:
        """Return the tenant's rated runs, newest rating first."""
        asked = {"tenant": checked_name("tenant", tenant), "pending": pending}
        rows = await self._database.execute_work(
            "read ratings", lambda s: s.rows("rated_runs", **asked), error=BackendError
        )
        return [_rated(row) for row in rows]

    async def _briefly(self, action: str, work: Any) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._database.execute_work(
            action, work, error=BackendError, within_seconds=BRIEF_SECONDS
        )
        return found


def _checked(what: str, text: str | None) -> str | None:
    return None if text is None else checked_text(what, text)


def _found(row: dict[str, Any] | None, run_id: str) -> RatedRun:
    if row is None:
        raise ConfigurationError(
            f"there is no run {run_id!r} that can be rated or was: take the run id of an answer of "
            "this tenant, as rttc ask prints it"
        )
    return _rated(row)


def _rated(row: dict[str, Any]) -> RatedRun:
    return RatedRun(
        rating=Rating(
            run_id=row["run_id"],
            is_right=row["is_right"],
            answer=row["answer"],
            note=row["note"],
            correction=row["correction"],
        ),
        query=row["query"],
        domain=row["domain"],
        answered=row["answered"],
        source_domain=row["source_domain"],
        candidate=row["candidate"],
        declined=row["declined"],
    )
