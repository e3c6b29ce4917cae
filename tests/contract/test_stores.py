"""Calibrations, API keys, ledgers and ratings: each store does what every store of them must do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from rttc_graph.integrations.postgres.api_key_store import PostgresApiKeyStore
from rttc_graph.integrations.postgres.calibration_store import PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.protocols.api_keys import ApiKey
from rttc_graph.testing import (
    ApiKeyStoreContract,
    CalibrationStoreContract,
    LedgerStoreContract,
    MemoryLedgerStore,
    RatingStoreContract,
)
from rttc_graph.testing.ledger_store_contract import ReadRuns


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresCalibrationStore(CalibrationStoreContract):
    @pytest.fixture
    def calibrations(self, database: Database) -> PostgresCalibrationStore:
        return PostgresCalibrationStore(database)


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresApiKeys(ApiKeyStoreContract):
    @pytest.fixture
    def keys(self, database: Database) -> PostgresApiKeyStore:
        return PostgresApiKeyStore(database)

    @pytest.fixture
    def add_key(self, keys: PostgresApiKeyStore) -> Callable[[ApiKey], Awaitable[object]]:
        return keys.add


class TestMemoryLedgerStore(LedgerStoreContract):
    @pytest.fixture
    def ledger_store(self) -> MemoryLedgerStore:
        return MemoryLedgerStore()

    @pytest.fixture
    def stored_runs(self, ledger_store: MemoryLedgerStore) -> ReadRuns:
        return lambda tenant: ledger_store.recent(tenant=tenant)


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresLedgerStore(LedgerStoreContract):
    @pytest.fixture
    def ledger_store(self, database: Database) -> PostgresLedgerStore:
        return PostgresLedgerStore(database)

    @pytest.fixture
    def stored_runs(self, ledger_store: PostgresLedgerStore) -> ReadRuns:
        return lambda tenant: ledger_store.recent(tenant=tenant)


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresRatingStore(RatingStoreContract):
    @pytest.fixture
    def rating_store(self, database: Database) -> PostgresRatingStore:
        return PostgresRatingStore(database)

    @pytest.fixture
    def runs(self, database: Database) -> PostgresLedgerStore:
        return PostgresLedgerStore(database)
