"""The seam to what turns raw scores of a reward model into probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCalibration:
    """How the raw scores of one domain become probabilities."""

    parameters: Mapping[str, Any]
    """JSON."""
    pairs: int
    """Judged answers that it was fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """The calibration of one reward model, known by its name and its fingerprint."""

    reward_model: str
    fingerprint: str
    """Of the reward model with its raw scores."""
    domains: Mapping[str, DomainCalibration]
    """By name; the empty name is for all domains that have none of their own."""
    tau_r: float | None = None
    """Proposed for the calibrated scores."""
    aim: str | None = None
    """What τr was chosen for, in words."""


class CalibrationStore(Protocol):
    """Keeps calibrations of reward models."""

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        """Store a calibration in the place of the one before it, domains included.

        Raises:
            BackendError: It was not stored; the one before it is still there.
        """
        ...

    async def load(
        self, reward_model: str, fingerprint: str, *, tenant: str
    ) -> StoredCalibration | None:
        """Return the calibration of a reward model; `None` if it has none.

        Raises:
            BackendError: The look-up failed.
        """
        ...
