"""Calibrations of reward models in Postgres, by model, fingerprint, tenant and domain."""

from __future__ import annotations

from rttc_graph.errors import BackendError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import checked_jsonb, checked_text
from rttc_graph.protocols import DomainCalibration, StoredCalibration
from rttc_graph.support.identity import checked_name

__all__ = ("PostgresCalibrationStore",)


class PostgresCalibrationStore:
    """A `CalibrationStore` in a migrated database.

    Args:
        database: Where it is; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        """Store a calibration in the place of the one before it, domains included."""
        model = {
            "reward_model": checked_text("the name of the reward model", calibration.reward_model),
            "fingerprint": checked_text("its fingerprint", calibration.fingerprint),
            "tenant": checked_name("tenant", tenant),
        }
        rows = [
            {
                **model,
                "domain": checked_name("domain", domain) if domain else "",
                "parameters": checked_jsonb("the calibration", dict(found.parameters)),
                "pairs": found.pairs,
                "tau_r": calibration.tau_r,
                "aim": calibration.aim,
            }
            for domain, found in calibration.domains.items()
        ]

        def work(session: DatabaseSession) -> None:
            with session.connection.transaction():
                session.execute("forget_calibration", **model)
                for row in rows:
                    session.execute("save_calibration", **row)

        await self._database.execute_work("store a calibration", work, error=BackendError)

    async def load(
        self, reward_model: str, fingerprint: str, *, tenant: str
    ) -> StoredCalibration | None:
        """Return the calibration of a reward model; `None` if it has none."""
        parameters = {"reward_model": reward_model, "fingerprint": fingerprint, "tenant": tenant}
        rows = await self._database.execute_work(
            "load a calibration",
            lambda session: session.rows("load_calibration", **parameters),
            error=BackendError,
            within_seconds=BRIEF_SECONDS,
        )
        if not rows:
            return None
        return StoredCalibration(
            reward_model=reward_model,
            fingerprint=fingerprint,
            domains={
                row["domain"]: DomainCalibration(parameters=row["parameters"], pairs=row["pairs"])
                for row in rows
            },
            tau_r=rows[0]["tau_r"],
            aim=rows[0]["aim"],
        )
