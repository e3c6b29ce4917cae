"""Calibrations of reward models in Postgres, by model, tenant and domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rttc_graph.errors import BackendError
from rttc_graph.identity import checked_name
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.json_values import checked_jsonb, checked_text

__all__ = ("PostgresCalibrationStore",)


class PostgresCalibrationStore:
    """Keeps the parameters that turn a reward model's scores into calibrated rewards.

    Args:
        database: Where it is; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(
        self,
        reward_model: str,
        parameters: Mapping[str, Any],
        *,
        pairs: int,
        tenant: str,
        domain: str | None = None,
    ) -> None:
        """Store a calibration over the one before it.

        Args:
            reward_model: Its name.
            parameters: JSON.
            pairs: How many judged answers it was fitted on.
            tenant: Whose answers they were.
            domain: Of the answers; `None` for all domains.
        """
        row = {
            "reward_model": checked_text("the name of the reward model", reward_model),
            "tenant": checked_name("tenant", tenant),
            "domain": "" if domain is None else checked_name("domain", domain),
            "parameters": checked_jsonb("the calibration", dict(parameters)),
            "pairs": pairs,
        }
        await self._database.run(
            "store a calibration",
            lambda s: s.execute("save_calibration", **row),
            error=BackendError,
        )

    async def load(
        self, reward_model: str, *, tenant: str, domain: str | None = None
    ) -> dict[str, Any] | None:
        """Return the parameters for a domain, else those for all domains, else `None`."""
        asked = {"reward_model": reward_model, "tenant": tenant, "domain": domain or ""}
        row = await self._database.run(
            "load a calibration", lambda s: s.row("load_calibration", **asked), error=BackendError
        )
        return None if row is None else row["parameters"]
