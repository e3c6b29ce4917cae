"""Ledgers and calibrations are stored and come back."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from scripted_parts import candidate, sample

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.postgres.calibration_store import PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.protocols import DomainCalibration, RunRecord, StoredCalibration
from rttc_graph.state import LedgerEntry

pytestmark = pytest.mark.usefixtures("no_blocking_calls")

RUN = RunRecord(
    run_id="run-1",
    tenant="tenant",
    domain="math",
    query="What is 1 + 1?",
    policy="cascade",
    tau_r=0.9,
    arm="rag",
    reward=0.95,
    accepted=True,
    seconds=1.5,
    tokens=120,
    entries=[
        {"node": "generate", "event": "answered", "seconds": 0.5, "detail": {"tokens": 60}},
        {"node": "reward_judge", "event": "judged", "seconds": 0.1, "detail": {}},
    ],
    answer="2",
    declined=True,
    candidate={**candidate("rag", 0.95), "rests_on": ["a"]},
    calibrated=True,
    sources=[{**sample(1), "arms": ["rag"], "taken": True}],
)


@pytest.fixture
def ledger(database: Database) -> PostgresLedgerStore:
    return PostgresLedgerStore(database)


async def test_a_run_comes_back_as_it_was(ledger: PostgresLedgerStore) -> None:
    bare = replace(RUN, run_id="run-2", domain=None, reward=None, entries=[])
    await ledger.append(RUN)
    await ledger.append(bare)
    await ledger.append(replace(RUN, run_id="run-3", tenant="other"))
    assert await ledger.recent(tenant="tenant") == [bare, RUN]
    assert await ledger.recent(tenant="tenant", count=1) == [bare]


async def test_a_run_is_stored_once(ledger: PostgresLedgerStore) -> None:
    await ledger.append(RUN)
    await ledger.append(replace(RUN, query="something else"))
    assert await ledger.recent(tenant="tenant") == [RUN]


async def test_what_postgres_cannot_store_is_replaced(ledger: PostgresLedgerStore) -> None:
    detail = {"loss": math.nan, "text": "a\0b", "half": "\ud800", "path": {1}, "ok": [True, None]}
    odd = replace(
        RUN,
        query="a\0b\ud800c",
        answer="a\0b",
        candidate={**candidate("rag"), "answer": "a\0b"},
        sources=[{**sample(1), "question": "a\0b", "arms": ["rag"], "taken": True}],
        entries=[{"node": "n", "event": "e", "seconds": 0.0, "detail": detail}],
    )
    await ledger.append(odd)
    (found,) = await ledger.recent(tenant="tenant")
    assert found.query == "a\ufffdb\ufffdc"
    assert found.candidate is not None
    texts = [found.answer, found.candidate["answer"], found.sources[0]["question"]]
    assert texts == ["a\ufffdb"] * 3
    assert found.entries[0]["detail"] == {
        "loss": None,
        "text": "a\ufffdb",
        "half": "\ufffd",
        "path": "{1}",
        "ok": [True, None],
    }


def adapter_run(run_id: str, *entries: LedgerEntry, **changes: Any) -> RunRecord:
    return replace(RUN, run_id=run_id, entries=list(entries), **changes)


def event(name: str, took: float, **detail: Any) -> LedgerEntry:
    return {"node": "n", "event": name, "seconds": took, "detail": detail}


async def test_statistics_against_a_hand_calculation(
    ledger: PostgresLedgerStore, database: Database
) -> None:
    trained = event("trained", 13.0, key="k1", seconds=12.0)
    recalled = event("recalled", 0.5, samples="hit", adapter="hit", adapter_key="k1")
    missed = event("recalled", 0.1, samples="miss", adapter="miss", adapter_key=None)
    reused = event("reused", 2.0, key="k1", origin="cache", seconds=2.0)
    near = event("reused", 3.0, key="k1", origin="near", seconds=3.0)
    waited = event("reused", 9.0, key="k1", origin="waited", seconds=9.0)
    runs = [
        adapter_run("1", missed, trained, arm="ttt", seconds=20.0),
        adapter_run("2", recalled, arm="ttt", seconds=4.0, accepted=False),
        adapter_run("3", missed, reused, arm="rag", seconds=6.0),
        adapter_run("4", missed, waited, near, arm="direct", seconds=10.0),
        adapter_run("5", domain=None, arm="direct", seconds=1.0, reward=None, accepted=False),
        adapter_run("6", recalled, tenant="other"),
        adapter_run("7", event("recalled", 0.5, adapter="hit", adapter_key="gone"), domain="law"),
    ]
    for run in runs:
        await ledger.append(run)
    found = {(one.domain, one.arm): one for one in await ledger.statistics(tenant="tenant")}
    maths = [("math", arm) for arm in ("direct", "rag", "ttt")]
    assert list(found) == [("", "direct"), ("law", "rag"), *maths]
    direct, rag, ttt = (found[key] for key in maths)
    assert (ttt.runs, ttt.accepted, ttt.seconds) == (2, 1, 24.0)
    assert (ttt.look_ups, ttt.samples_hits, ttt.adapter_hits) == (2, 1, 1)
    assert ttt.seconds_saved == pytest.approx(12.0 - 0.5)
    assert (rag.runs, rag.accepted, rag.look_ups, rag.seconds_saved) == (1, 1, 1, 12.0 - 2.0)
    assert (direct.runs, direct.samples_hits, direct.adapter_hits) == (1, 0, 1)
    assert direct.seconds_saved == pytest.approx(12.0 - 3.0)
    law, unnamed = found["law", "rag"], found["", "direct"]
    assert (law.adapter_hits, law.seconds_saved) == (1, 0.0)
    assert (unnamed.runs, unnamed.look_ups, unnamed.tokens) == (1, 0, RUN.tokens)
    assert ttt.day == datetime.now(UTC).date()
    await asyncio.to_thread(_age_runs, database)
    assert len(await ledger.statistics(tenant="tenant")) == 5
    assert await ledger.statistics(tenant="tenant", days=3) == []
    assert await ledger.statistics(tenant="nobody") == []


def _age_runs(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("update rttc_run set created_at = created_at - interval '4 days'")


async def test_a_database_without_tables_is_named(empty_dsn: str) -> None:
    database = Database(empty_dsn)
    with pytest.raises(BackendError, match=r"could not store a run.*rttc db migrate"):
        await PostgresLedgerStore(database).append(RUN)
    await asyncio.to_thread(database.close)


def calibration(fingerprint: str = "one", **domains: int) -> StoredCalibration:
    return StoredCalibration(
        reward_model="judge",
        fingerprint=fingerprint,
        domains={
            domain.removeprefix("all"): DomainCalibration(parameters={"a": a}, pairs=10 * a)
            for domain, a in domains.items()
        },
        tau_r=0.7,
        aim="highest accuracy",
    )


async def test_a_calibration_takes_the_place_of_the_one_before_it(database: Database) -> None:
    store = PostgresCalibrationStore(database)
    assert await store.load("judge", "one", tenant="t") is None
    await store.save(calibration(all=1, math=2, law=3), tenant="t")
    latest = calibration(all=4, math=5)
    await store.save(latest, tenant="t")
    assert await store.load("judge", "one", tenant="t") == latest


async def test_other_weights_and_other_tenants_have_no_calibration(database: Database) -> None:
    store = PostgresCalibrationStore(database)
    one, two = calibration(all=1), calibration("two", all=2)
    await store.save(one, tenant="t")
    assert await store.load("judge", "two", tenant="t") is None
    assert await store.load("judge", "one", tenant="other") is None
    assert await store.load("other", "one", tenant="t") is None
    await store.save(two, tenant="t")
    assert await store.load("judge", "one", tenant="t") == one


async def test_a_calibration_that_is_no_json_is_refused(database: Database) -> None:
    broken = DomainCalibration(parameters={"a": math.nan}, pairs=1)
    with pytest.raises(ConfigurationError, match="not JSON"):
        await PostgresCalibrationStore(database).save(
            replace(calibration(), domains={"": broken}), tenant="t"
        )


async def aged_runs(ledger: PostgresLedgerStore, dsn: str) -> None:
    for run_id, tenant, days in (("1", "a", 40), ("2", "a", 1), ("3", "b", 40)):
        await ledger.append(replace(RUN, run_id=run_id, tenant=tenant))
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "update rttc_run set created_at = now() - make_interval(days => %s) "
                "where run_id = %s",
                (days, run_id),
            )


@pytest.mark.parametrize(
    ("tenant", "days", "left"),
    [("a", 30, {"2", "3"}), (None, 30, {"2"}), (None, 60, {"1", "2", "3"}), ("a", 0.5, {"3"})],
)
@pytest.mark.blocking_allowed
async def test_runs_are_pruned_by_age_and_tenant(
    ledger: PostgresLedgerStore, postgres_dsn: str, tenant: str | None, days: float, left: set[str]
) -> None:
    await aged_runs(ledger, postgres_dsn)
    counted = await ledger.prune(older_than_days=days, tenant=tenant, dry_run=True)
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("select count(*) from rttc_run").fetchone() == (3,)
    assert await ledger.prune(older_than_days=days, tenant=tenant) == counted == 3 - len(left)
    with psycopg.connect(postgres_dsn) as connection:
        found = connection.execute("select run_id from rttc_run").fetchall()
    assert {run_id for (run_id,) in found} == left


@pytest.mark.blocking_allowed
async def test_runs_are_pruned_by_themselves_only_where_that_is_asked_for(
    ledger: PostgresLedgerStore, database: Database, postgres_dsn: str
) -> None:
    await aged_runs(ledger, postgres_dsn)
    await ledger.append(replace(RUN, run_id="4", tenant="a"))
    assert len(await ledger.recent(tenant="a")) == 3
    await PostgresLedgerStore(database, max_age_days=30).append(replace(RUN, run_id="5"))
    assert [run.run_id for run in await ledger.recent(tenant="a")] == ["4", "2"]
    assert await ledger.recent(tenant="b") == []


@pytest.mark.parametrize("days", [0, -1, math.inf, math.nan])
async def test_an_age_that_is_none_is_refused(ledger: PostgresLedgerStore, days: float) -> None:
    with pytest.raises(ConfigurationError, match="older_than_days"):
        await ledger.prune(older_than_days=days)
