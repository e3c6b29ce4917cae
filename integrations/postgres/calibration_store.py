"""Calibrations of reward models in Postgres, by model, fingerprint, tenant and domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.database import BRIEF_SECONDS, Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
from rttc_graph.integrations.postgres.json_values import checked_jsonb, checked_text
from rttc_graph.protocols import DomainCalibration, StoredCalibration
from rttc_graph.support.identity import checked_name

__all__ = ("KeptCalibration", "PostgresCalibrationStore")

MAX_PAST = 20
"""Replaced calibrations that are kept of one reward model: a few kilobytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCalibration:
    """A stored calibration, and how far back one can go from it."""

    calibration: StoredCalibration
    saved_at: datetime
    earlier: int
    """Number of times it can be undone to something that is known; no calibration is known too."""


class PostgresCalibrationStore:
    """A `CalibrationStore` in a migrated database; what is replaced can be brought back.

    Args:
        database: Where it is; it stays its caller's to close.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        """Store a calibration in the place of the one before it, domains included."""
        named = calibration.reward_model, calibration.fingerprint
        await self.update(*named, lambda _: calibration, tenant=tenant)

    async def update(
        self,
        reward_model: str,
        fingerprint: str,
        change: Callable[[StoredCalibration | None], StoredCalibration],
        *,
        tenant: str,
    ) -> StoredCalibration:
        """Store what is made of the calibration in force, and return it.

        Two that do so at once do it one after the other: the second is given the first one's.

        Args:
            reward_model: Its name.
            fingerprint: Its fingerprint.
            change: Given the calibration in force, `None` if there is none; returns the one that
                takes its place, of the same reward model.
            tenant: Tenant of the calibration.

        Raises:
            BackendError: Nothing was changed.
        """
        model = _model(reward_model, fingerprint, tenant)

        def work(session: DatabaseSession) -> StoredCalibration:
            with session.connection.transaction():
                session.rows("lock_calibration", **model)
                there = session.rows("load_calibration", **model)
                before = _calibration(reward_model, fingerprint, there) if there else None
                calibration = change(before)
                rows = _rows(model, calibration)
                session.execute("keep_past_calibration", **model)
                session.execute("drop_past_calibrations", **model, kept=MAX_PAST)
                _replace(session, model, rows)
                return calibration

        return await self._database.execute_work("store a calibration", work, error=BackendError)

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
        return _calibration(reward_model, fingerprint, rows) if rows else None

    async def kept(self, *, tenant: str) -> list[KeptCalibration]:
        """Return the tenant's calibrations of all reward models, the last saved first.

        Raises:
            BackendError: They cannot be read.
        """
        asked = {"tenant": checked_name("tenant", tenant)}
        rows = await self._database.execute_work(
            "list calibrations", lambda s: s.rows("kept_calibrations", **asked), error=BackendError
        )
        return [
            KeptCalibration(
                calibration=_calibration(model, fingerprint, found),
                saved_at=max(row["saved_at"] for row in found),
                earlier=found[0]["earlier"],
            )
            for (model, fingerprint), group in groupby(
                rows, key=lambda row: (row["reward_model"], row["fingerprint"])
            )
            for found in [list(group)]
        ]

    async def undo(
        self, reward_model: str, fingerprint: str, *, tenant: str
    ) -> StoredCalibration | None:
        """Bring back the calibration that the present one took the place of, and return it.

        `None` means that there was none before, or that nobody knows any more: the reward model
        has its raw scores again.

        Raises:
            ConfigurationError: The reward model has no calibration.
            BackendError: Nothing was changed.
        """
        model = _model(reward_model, fingerprint, tenant)

        def work(session: DatabaseSession) -> StoredCalibration | None:
            with session.connection.transaction():
                session.rows("lock_calibration", **model)
                if not session.rows("load_calibration", **model):
                    raise ConfigurationError(
                        f"the reward model {reward_model!r} ({fingerprint[:8]}) has no calibration "
                        "that could be undone: rttc calibrate --list shows those there are"
                    )
                past = session.row("take_past_calibration", **model)
                found = None if past is None else _past(reward_model, fingerprint, past)
                saved_at = None if past is None else past["saved_at"]
                _replace(session, model, [] if found is None else _rows(model, found), saved_at)
                return found

        return await self._database.execute_work("undo a calibration", work, error=BackendError)


def _model(reward_model: str, fingerprint: str, tenant: str) -> dict[str, str]:
    return {
        "reward_model": checked_text("the name of the reward model", reward_model),
        "fingerprint": checked_text("its fingerprint", fingerprint),
        "tenant": checked_name("tenant", tenant),
    }


def _rows(model: dict[str, str], calibration: StoredCalibration) -> list[dict[str, Any]]:
    return [
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


def _replace(
    session: DatabaseSession,
    model: dict[str, str],
    rows: Sequence[dict[str, Any]],
    saved_at: datetime | None = None,
) -> None:
    """Put the maps in the place of those that are there."""
    session.execute("forget_calibration", **model)
    for row in rows:
        session.execute("save_calibration", **row, saved_at=saved_at)


def _calibration(
    reward_model: str, fingerprint: str, rows: Sequence[dict[str, Any]]
) -> StoredCalibration:
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


def _past(reward_model: str, fingerprint: str, row: dict[str, Any]) -> StoredCalibration | None:
    """Return a past calibration; `None` where it says that there was none."""
    kept = row["calibration"]
    if not kept["domains"]:
        return None
    return StoredCalibration(
        reward_model=reward_model,
        fingerprint=fingerprint,
        domains={
            domain: DomainCalibration(parameters=found["parameters"], pairs=found["pairs"])
            for domain, found in kept["domains"].items()
        },
        tau_r=kept["tau_r"],
        aim=kept["aim"],
    )
