"""Calibrations on a real Postgres: undone, listed, and followed by a run of another connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from installations import Installation
from scripted_parts import Parts

from rttc_graph.calibration.aims import Aim
from rttc_graph.calibration.proposal import propose
from rttc_graph.cli.app import main
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.evaluation_rows import EvaluationRow
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion
from rttc_graph.evaluation.replay import JudgedArm
from rttc_graph.graph import create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.integrations.postgres.calibration_store import MAX_PAST, PostgresCalibrationStore
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import PLAN_KEY, CalibratedReward
from rttc_graph.protocols import StoredCalibration
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Arm
from rttc_graph.testing.calibration_store_contract import stored_calibration

TENANT = "tenant"

Change = Callable[[StoredCalibration | None], StoredCalibration]


def answer(arm: Arm, domain: str, reward: float, *, right: bool, seconds: float) -> JudgedArm:
    row: EvaluationRow = {
        "kind": "answer",
        "digest": "",
        "data_set": domain,
        "model": "m",
        "row": "",
        "policy": arm,
        "seed": 0,
        "id": None,
        "domain": domain,
        "question": "q",
        "reference": "a",
        "metadata": {},
        "candidates": [
            {
                "arm": arm,
                "answer": "a",
                "reward": None,
                "seconds": seconds,
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "trained_tokens": 0,
                "mean_logprob": None,
                "finish_reason": "stop",
                "adapter": None,
            }
        ],
        "right": right,
        "seconds": {"generation": seconds, "retrieval": 0.0, "training": 0.0},
        "error": None,
    }
    return JudgedArm(row=row, reward=reward, judging_seconds=0.0)


def questions(domain: str, *, right: Arm) -> list[EvaluatedQuestion]:
    """One arm is right nine times in ten and knows when, the other hardly ever."""
    made: list[EvaluatedQuestion] = []
    for number in range(60):
        arms: dict[Arm, JudgedArm] = {}
        for arm, seconds in (("nearest", 0.5), ("rag", 2.0)):
            good = (arm == right) == (number % 10 > 0)
            reward = 0.7 + number / 1000 if good else 0.2 + number / 1000
            arms[arm] = answer(arm, domain, reward, right=good, seconds=seconds)
        made.append(
            EvaluatedQuestion(data_set=domain, model="m", row=str(number), domain=domain, arms=arms)
        )
    return made


async def test_chosen_arms_are_saved_read_back_and_followed(
    database: Database, postgres_dsn: str
) -> None:
    """By the process that calibrates, by another connection, and by the graph over that."""
    both = [*questions("labels", right="nearest"), *questions("reports", right="rag")]
    proposal = await asyncio.to_thread(propose, both, Aim(accuracy=0.5))
    chosen = {name: arms for name, arms in proposal.arms.items() if name}
    assert chosen == {"labels": ("nearest",), "reports": ("rag",)}
    saved = proposal.stored("scripted", "scripted")
    await PostgresCalibrationStore(database).save(saved, tenant="default")

    other = Database(postgres_dsn)
    try:
        parts = Parts(arms=()).rewarding(nearest=0.05, rag=0.05, ttt=0.05, direct=0.05)
        parts.knowledge_base.domains = ("labels", "reports", "third")
        judge = CalibratedReward(parts.reward_model, PostgresCalibrationStore(other))
        made = parts.parts()
        made["reward_model"] = judge
        graph = create_rttc_graph(**made)
        ran: dict[str, list[str]] = {}
        for domain in ("labels", "reports", "third"):
            settings = RttcSettings(tau_r=0.99, use_cache=False)
            result = await ask(graph, "q", domain=domain, settings=settings)
            ran[domain] = [c["arm"] for c in result["candidates"]]
            assert result["calibrated"] == (domain != "third")
        assert ran == {
            "labels": ["nearest"],
            "reports": ["rag"],
            "third": ["nearest", "rag", "ttt"],
        }
    finally:
        await asyncio.to_thread(other.close)


@pytest.fixture
def store(database: Database) -> PostgresCalibrationStore:
    return PostgresCalibrationStore(database)


async def test_what_was_replaced_comes_back_step_by_step(store: PostgresCalibrationStore) -> None:
    first, second = stored_calibration(1 / 3, "math"), stored_calibration(2.0, "law", "math")
    second = replace(second, tau_r=None, aim=None)
    for one in (first, second):
        await store.save(one, tenant=TENANT)
    [kept] = await store.kept(tenant=TENANT)
    assert (kept.calibration, kept.earlier) == (second, 2)
    assert await store.undo("judge", "f1", tenant=TENANT) == first
    assert await store.load("judge", "f1", tenant=TENANT) == first
    [before] = await store.kept(tenant=TENANT)
    assert before.saved_at < kept.saved_at  # when it was saved, not when it came back
    assert await store.undo("judge", "f1", tenant=TENANT) is None
    assert await store.load("judge", "f1", tenant=TENANT) is None
    assert await store.kept(tenant=TENANT) == []
    with pytest.raises(ConfigurationError, match="no calibration that could be undone"):
        await store.undo("judge", "f1", tenant=TENANT)


async def test_undoing_touches_no_other_model_and_no_other_tenant(
    store: PostgresCalibrationStore,
) -> None:
    mine = stored_calibration(1.0)
    other = replace(mine, fingerprint="f2")
    await store.save(mine, tenant=TENANT)
    await store.save(other, tenant=TENANT)
    await store.save(mine, tenant="other")
    assert await store.undo("judge", "f1", tenant=TENANT) is None
    assert await store.load("judge", "f2", tenant=TENANT) == other
    assert await store.load("judge", "f1", tenant="other") == mine
    assert [one.calibration for one in await store.kept(tenant=TENANT)] == [other]


async def test_a_calibration_of_an_earlier_release_is_undone_to_raw_scores(
    store: PostgresCalibrationStore, postgres_dsn: str
) -> None:
    await store.save(stored_calibration(1.0), tenant=TENANT)

    def forget() -> None:
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute("delete from rttc_past_calibration")

    await asyncio.to_thread(forget)
    assert await store.undo("judge", "f1", tenant=TENANT) is None
    assert await store.load("judge", "f1", tenant=TENANT) is None


async def test_only_the_newest_past_ones_are_kept(store: PostgresCalibrationStore) -> None:
    for number in range(MAX_PAST + 3):
        await store.save(stored_calibration(1.0 + number), tenant=TENANT)
    [kept] = await store.kept(tenant=TENANT)
    assert kept.earlier == MAX_PAST
    assert kept.calibration == stored_calibration(1.0 + MAX_PAST + 2)


async def test_two_that_save_at_once_both_count(
    store: PostgresCalibrationStore, postgres_dsn: str
) -> None:
    """Each adds its domain to the calibration in force; the second waits for the first."""
    inside, may_go_on = threading.Event(), threading.Event()

    def adding(domain: str) -> Change:
        def change(before: StoredCalibration | None) -> StoredCalibration:
            inside.set()
            if domain == "math":
                assert may_go_on.wait(20)
            mine = stored_calibration(1.0)
            added = {domain: mine.domains[""]}
            return replace(mine, domains=added if before is None else {**before.domains, **added})

        return change

    other = Database(postgres_dsn)
    try:
        first = asyncio.create_task(store.update("judge", "f1", adding("math"), tenant=TENANT))
        await asyncio.to_thread(inside.wait, 20)
        second = asyncio.create_task(
            PostgresCalibrationStore(other).update("judge", "f1", adding("law"), tenant=TENANT)
        )
        await asyncio.wait([second], timeout=0.3)
        assert not second.done()
        may_go_on.set()
        await first
        saved = await second
        assert sorted(saved.domains) == ["law", "math"]
        assert await store.load("judge", "f1", tenant=TENANT) == saved
        assert (await store.kept(tenant=TENANT))[0].earlier == 2
    finally:
        may_go_on.set()
        await asyncio.to_thread(other.close)


def test_a_plan_of_a_later_release_is_listed_as_one_that_cannot_be_read(
    installed: Installation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    postgres_dsn: str,
) -> None:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    calibration = stored_calibration(1.0)
    parameters = {**calibration.domains[""].parameters, PLAN_KEY: {"of": "a later release"}}
    domains = {"math": replace(calibration.domains[""], parameters=parameters)}
    with closing(Database(postgres_dsn)) as database:
        store = PostgresCalibrationStore(database)
        asyncio.run(store.save(replace(calibration, domains=domains), tenant="default"))
    assert main(["calibrate", "--list"]) == 0
    assert "cannot be read" in capsys.readouterr().out
