"""What every store of calibrations must do; subclass it and define the fixture `calibrations`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rttc_graph.protocols import CalibrationStore, DomainCalibration, StoredCalibration
from rttc_graph.testing.inputs import ODD_NAMES, TENANT


def stored_calibration(slope: float = 1.5, *domains: str) -> StoredCalibration:
    """Return a calibration with a map for all domains and one for each that is named."""
    platt = {"method": "platt", "knots": [[slope, -0.25]]}
    kept = DomainCalibration(parameters=platt, pairs=60)
    return StoredCalibration(
        reward_model="judge",
        fingerprint="f1",
        domains=dict.fromkeys(("", *domains), kept),
        tau_r=0.6,
        aim="accuracy 0.8",
    )


class CalibrationStoreContract:
    """Subclass it in a backend's tests and define the fixture `calibrations`."""

    @pytest.fixture
    def calibrations(self) -> CalibrationStore:
        """Return an empty store; override it."""
        raise NotImplementedError("define the fixture `calibrations`")

    async def test_a_calibration_comes_back_whole(self, calibrations: CalibrationStore) -> None:
        """Numbers come back to the last bit: the fingerprint of a calibrated judge has them."""
        kept = stored_calibration(1 / 3, "math", "law")
        await calibrations.save(kept, tenant=TENANT)
        assert await calibrations.load("judge", "f1", tenant=TENANT) == kept

    async def test_a_new_one_takes_the_place_of_the_old(
        self, calibrations: CalibrationStore
    ) -> None:
        """Domains that it does not have are gone with it."""
        await calibrations.save(stored_calibration(1.0, "math"), tenant=TENANT)
        newer = replace(stored_calibration(2.0, "law"), tau_r=None, aim=None)
        await calibrations.save(newer, tenant=TENANT)
        assert await calibrations.load("judge", "f1", tenant=TENANT) == newer

    @pytest.mark.parametrize(
        ("name", "fingerprint", "tenant"),
        [("other", "f1", TENANT), ("judge", "f2", TENANT), ("judge", "f1", "other")],
    )
    async def test_another_ones_is_not_found(
        self, calibrations: CalibrationStore, name: str, fingerprint: str, tenant: str
    ) -> None:
        """Name, weights and tenant must all be the same."""
        await calibrations.save(stored_calibration(), tenant=TENANT)
        assert await calibrations.load(name, fingerprint, tenant=tenant) is None

    @pytest.mark.parametrize("domain", ODD_NAMES.values(), ids=ODD_NAMES)
    async def test_odd_names_are_only_names(
        self, calibrations: CalibrationStore, domain: str
    ) -> None:
        """They are data, never SQL."""
        kept = stored_calibration(1.0, domain)
        await calibrations.save(kept, tenant=domain)
        assert await calibrations.load("judge", "f1", tenant=domain) == kept
