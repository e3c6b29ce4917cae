"""`POST /v1/feedback` on a real database: ratings are taken, and keys open what they should."""

from __future__ import annotations

from typing import Any

import pytest
from http_servers import post, served
from scripted_parts import Parts, ScriptedEmbedder

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.http_app import ServedParts, create_app

HELLO: Any = [{"role": "user", "content": "what does a helmet cost"}]


def test_feedback_is_taken_for_a_run_of_the_tenant(database: Database) -> None:
    embedder = ScriptedEmbedder()
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95).parts()
    parts["ledger_store"] = PostgresLedgerStore(database)
    corrections = Corrections(
        ratings=PostgresRatingStore(database),
        knowledge_base=PostgresKnowledgeBase(database, embedder),
        embedder=embedder,
        policy="store",
    )
    with served(create_app(ServedParts(parts=parts, corrections=corrections))) as url:
        done = post(url, "/v1/chat/completions", {"model": "rttc", "messages": HELLO}).json()
        run = done["rttc"]["run_id"]
        given = {"run_id": run, "rating": "wrong", "answer": "35 euros"}
        taken = post(url, "/v1/feedback", given)
        other = post(url, "/v1/feedback", {**given, "tenant": "another"})
        unknown = post(url, "/v1/feedback", {**given, "rating": "perhaps"})
    assert taken.json() == {"run_id": run, "rating": "wrong", "correction": "stored"}
    assert other.status_code == 400
    assert "there is no run" in other.json()["error"]["message"]
    assert unknown.status_code == 400


@pytest.mark.parametrize("path", ["/v1/feedback"])
def test_feedback_is_documented(path: str, database: Database) -> None:
    embedder = ScriptedEmbedder()
    corrections = Corrections(
        ratings=PostgresRatingStore(database),
        knowledge_base=PostgresKnowledgeBase(database, embedder),
        embedder=embedder,
    )
    app = create_app(ServedParts(corrections=corrections))
    assert "post" in app.openapi()["paths"][path]
