"""The seam to what turns raw scores of a reward model into probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainCalibration:
    """Map from the raw scores of one domain to probabilities."""

    parameters: Mapping[str, Any]
    """Parameters of the map, as JSON."""
    pairs: int
    """Number of judged answers that the map was fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """The calibration of one reward model, known by its name and its fingerprint."""

    reward_model: str
    fingerprint: str
    """Fingerprint of the reward model with its raw scores."""
    domains: Mapping[str, DomainCalibration]
    """Map of each domain by name; the empty name is for questions that name no domain."""
    tau_r: float | None = None
    """Threshold proposed for the calibrated scores."""
    aim: str | None = None
    """Aim that τr was chosen for, in words."""


class CalibrationStore(Protocol):
    """Keeps calibrations of reward models."""

    async def save(self, calibration: StoredCalibration, *, tenant: str) -> None:
        """Store a calibration; it replaces the previous one with all its domains.

        Raises:
            BackendError: It was not stored; the previous one still holds.
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
