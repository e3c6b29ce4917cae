"""Ratings and corrections on a real Postgres: a right answer becomes a sample of its tenant."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from scripted_parts import Parts, ScriptedEmbedder

from rttc_graph import ConfigurationError, create_rttc_graph
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import NewSample, Rating, RunRecord
from rttc_graph.samples.corrections import Corrections, CorrectionsPolicy, calibration_rows
from rttc_graph.samples.ingest import ingest
from rttc_graph.state import Source

SOURCE: Source = {
    "id": "a",
    "question": "What is the price of a helmet?",
    "answer": "20 euros",
    "domain": "shop",
    "similarity": 0.9,
    "arms": ["rag"],
    "taken": True,
}
RUN = RunRecord(
    run_id="run-1",
    tenant="tenant",
    domain=None,
    query="How much does a helmet cost?",
    policy="rag",
    tau_r=0.5,
    arm="rag",
    reward=0.4,
    accepted=False,
    seconds=1.0,
    tokens=10,
    entries=[],
    answer="20 euros",
    sources=[SOURCE],
)


@pytest.fixture
def embedder() -> ScriptedEmbedder:
    return ScriptedEmbedder()


async def opened(
    database: Database, embedder: ScriptedEmbedder, policy: CorrectionsPolicy = "approve"
) -> Corrections:
    await PostgresLedgerStore(database).append(RUN)
    return Corrections(
        ratings=PostgresRatingStore(database),
        knowledge_base=PostgresKnowledgeBase(database, embedder),
        embedder=embedder,
        policy=policy,
    )


WRONG = Rating(run_id="run-1", is_right=False, answer="35 euros", note="new price list")


async def answers(corrections: Corrections, tenant: str = "tenant") -> list[str]:
    [vector] = await corrections.embedder.embed([RUN.query])
    found = await corrections.knowledge_base.search(vector, k=8, domain=None, tenant=tenant)
    return [sample["answer"] for sample in found.samples]


async def test_the_last_rating_of_a_run_wins(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder)
    await corrections.rate(WRONG, tenant="tenant")
    await corrections.rate(Rating(run_id="run-1", is_right=True), tenant="tenant")
    [rated] = await corrections.ratings.rated_runs(tenant="tenant")
    assert rated.rating == Rating(run_id="run-1", is_right=True)
    assert (rated.query, rated.answered) == (RUN.query, "20 euros")


@pytest.mark.parametrize(
    ("policy", "may_store", "state", "stored"),
    [
        pytest.param("store", True, "stored", ["35 euros"], id="at-once"),
        pytest.param("store", False, "pending", [], id="not-by-a-key-that-may-not-write"),
        pytest.param("approve", True, "pending", [], id="after-approval"),
        pytest.param("off", True, "none", [], id="never"),
    ],
)
async def test_what_becomes_of_a_right_answer(
    database: Database,
    embedder: ScriptedEmbedder,
    policy: CorrectionsPolicy,
    may_store: bool,
    state: str,
    stored: list[str],
) -> None:
    corrections = await opened(database, embedder, policy)
    rated = await corrections.rate(WRONG, tenant="tenant", may_store=may_store)
    assert rated.rating.correction == state
    assert await answers(corrections) == stored


async def test_an_approved_answer_is_a_sample_of_the_domain_and_a_later_one_replaces_it(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder)
    await corrections.rate(WRONG, tenant="tenant")
    assert [
        r.rating.answer for r in await corrections.ratings.rated_runs(tenant="tenant", pending=True)
    ] == ["35 euros"]
    assert (await corrections.approve("run-1", tenant="tenant")).rating.correction == "stored"
    assert not await corrections.ratings.rated_runs(tenant="tenant", pending=True)
    assert await answers(corrections) == ["35 euros"]
    [domain] = await corrections.knowledge_base.stats(tenant="tenant")
    assert domain.domain == "shop"  # of the sample that misled
    await corrections.rate(replace(WRONG, answer="40 euros"), tenant="tenant")
    await corrections.approve("run-1", tenant="tenant")
    assert await answers(corrections) == ["40 euros"]


async def test_a_tenant_neither_sees_nor_rates_anothers_run(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder, "store")
    with pytest.raises(ConfigurationError, match="no run 'run-1'"):
        await corrections.rate(WRONG, tenant="other")
    with pytest.raises(ConfigurationError, match="no run 'unknown'"):
        await corrections.rate(replace(WRONG, run_id="unknown"), tenant="tenant")
    await corrections.rate(WRONG, tenant="tenant")
    for work in (corrections.approve, corrections.reject):
        with pytest.raises(ConfigurationError, match="no run 'run-1'"):
            await work("run-1", tenant="other")
    with pytest.raises(ConfigurationError, match="no run 'run-1'"):
        await corrections.rate(replace(WRONG, answer="1 euro"), tenant="other")
    assert await corrections.ratings.rated_runs(tenant="other") == []
    assert await answers(corrections) == ["35 euros"]
    assert await answers(corrections, tenant="other") == []


async def test_what_cannot_be_approved_is_said(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder)
    await corrections.rate(Rating(run_id="run-1", is_right=False), tenant="tenant")
    with pytest.raises(ConfigurationError, match="without a right answer"):
        await corrections.approve("run-1", tenant="tenant")
    with pytest.raises(ConfigurationError, match="empty"):
        await corrections.rate(replace(WRONG, answer=" "), tenant="tenant")


async def test_rated_runs_are_rows_for_a_calibration(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder)
    ledger = PostgresLedgerStore(database)
    for number in (2, 3, 4):
        await ledger.append(replace(RUN, run_id=f"run-{number}", domain="prices"))
    await corrections.rate(WRONG, tenant="tenant")
    await corrections.rate(Rating(run_id="run-2", is_right=True), tenant="tenant")
    await corrections.rate(Rating(run_id="run-3", is_right=False), tenant="tenant")
    await corrections.rate(replace(WRONG, run_id="run-4"), tenant="tenant")
    await corrections.reject("run-4", tenant="tenant")
    rows = calibration_rows(await corrections.ratings.rated_runs(tenant="tenant"))
    said = {row["id"]: (row["answer"], row["domain"]) for row in rows}
    assert said == {"run-1": ("35 euros", "shop"), "run-2": ("20 euros", "prices")}
    json.dumps(rows)


async def test_the_helmet_a_corrected_price_is_answered_with_its_source(
    database: Database, embedder: ScriptedEmbedder
) -> None:
    corrections = await opened(database, embedder)
    old = NewSample(question="What is the price of a helmet?", answer="20 euros", domain="shop")
    await ingest([old], corrections.knowledge_base, embedder, tenant="tenant")
    parts = Parts().rewarding(rag=0.95)
    made = parts.parts()
    made["knowledge_base"] = corrections.knowledge_base
    made["ledger_store"] = PostgresLedgerStore(database)
    made["embedder"] = embedder
    made["cache"] = None
    graph = create_rttc_graph(**made)
    asked = {"query": RUN.query, "domain": "shop"}
    # The embedder's cosines say nothing of how far a sample is.
    context = {"policy": "rag", "tenant": "tenant", "k": 1, "evidence_similarity": 0}

    first = await graph.ainvoke(asked, context=context)  # type: ignore[call-overload]
    await corrections.rate(
        Rating(run_id=first["run_id"], is_right=False, answer="35 euros"), tenant="tenant"
    )
    await corrections.approve(first["run_id"], tenant="tenant")
    second = await graph.ainvoke(asked, context=context)  # type: ignore[call-overload]

    assert [s["answer"] for s in first["sources"]] == ["20 euros"]
    assert [(s["answer"], s["taken"]) for s in second["sources"]] == [("35 euros", True)]
    assert second["sources"][0]["metadata"] == {"corrected_run": first["run_id"]}
    shown = [turn["content"] for turn in parts.policy_model.requests[-1].messages]
    assert "35 euros" in shown
    assert "20 euros" not in shown
    await asyncio.sleep(0)
