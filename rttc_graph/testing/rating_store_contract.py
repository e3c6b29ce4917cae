"""What every rating store must do; subclass it and define `rating_store` and `runs`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import LedgerStore, Rating, RatingStore
from rttc_graph.testing.inputs import TENANT
from rttc_graph.testing.ledger_store_contract import RUN

RIGHT = Rating(run_id=RUN.run_id, is_right=True)
CORRECTED = Rating(
    run_id=RUN.run_id, is_right=False, answer="2", note="by hand", correction="pending"
)


class RatingStoreContract:
    """Subclass it in a backend's tests and define `rating_store` and `runs`."""

    @pytest.fixture
    def rating_store(self) -> RatingStore:
        """Return a store without ratings; override it."""
        raise NotImplementedError("define the fixture `rating_store`")

    @pytest.fixture
    def runs(self, rating_store: RatingStore) -> LedgerStore:
        """Return the ledger store whose runs are rated; override it."""
        raise NotImplementedError("define the fixture `runs`")

    async def test_a_rating_comes_back_with_its_run(
        self, rating_store: RatingStore, runs: LedgerStore
    ) -> None:
        """All fields of the rating, and the question that it is about."""
        await runs.append(RUN)
        stored = await rating_store.rate(CORRECTED, tenant=TENANT)
        assert stored.rating == CORRECTED
        assert (stored.query, stored.domain) == (RUN.query, RUN.domain)
        assert await rating_store.rated_run(RUN.run_id, tenant=TENANT) == stored

    async def test_the_last_rating_of_a_run_counts(
        self, rating_store: RatingStore, runs: LedgerStore
    ) -> None:
        """A run has one rating; who changes their mind changes it."""
        await runs.append(RUN)
        await rating_store.rate(CORRECTED, tenant=TENANT)
        await rating_store.rate(RIGHT, tenant=TENANT)
        assert [run.rating for run in await rating_store.rated_runs(tenant=TENANT)] == [RIGHT]

    async def test_waiting_corrections_are_listed(
        self, rating_store: RatingStore, runs: LedgerStore
    ) -> None:
        """Only those that wait for approval, newest first."""
        for number in range(3):
            await runs.append(replace(RUN, run_id=f"run-{number}"))
        await rating_store.rate(replace(CORRECTED, run_id="run-0"), tenant=TENANT)
        await rating_store.rate(replace(RIGHT, run_id="run-1"), tenant=TENANT)
        await rating_store.rate(replace(CORRECTED, run_id="run-2"), tenant=TENANT)
        waiting = await rating_store.rated_runs(tenant=TENANT, pending=True)
        assert [run.rating.run_id for run in waiting] == ["run-2", "run-0"]

    async def test_another_tenants_run_cannot_be_rated_or_seen(
        self, rating_store: RatingStore, runs: LedgerStore
    ) -> None:
        """It looks like a run that never was."""
        await runs.append(RUN)
        await rating_store.rate(CORRECTED, tenant=TENANT)
        with pytest.raises(ConfigurationError, match="no run"):
            await rating_store.rate(RIGHT, tenant="other")
        with pytest.raises(ConfigurationError, match="no run"):
            await rating_store.rated_run(RUN.run_id, tenant="other")
        assert await rating_store.rated_runs(tenant="other") == []

    async def test_a_run_without_a_rating_has_none(
        self, rating_store: RatingStore, runs: LedgerStore
    ) -> None:
        """The error names the run."""
        await runs.append(RUN)
        with pytest.raises(ConfigurationError, match=RUN.run_id):
            await rating_store.rated_run(RUN.run_id, tenant=TENANT)
        assert await rating_store.rated_runs(tenant=TENANT) == []
