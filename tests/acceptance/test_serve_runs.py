"""`/runs`, `/me` and what changes samples: on a real database, each key within its scopes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from http_servers import MemoryKeys, get, post, send, served
from scripted_parts import Parts, ScriptedEmbedder

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.http_app import ServedParts, create_app

CHAT = "/v1/chat/completions"
HELMET = {"question": "what does a helmet cost", "answer": "20 euros", "domain": "shop"}


async def _calibrations(tenant: str) -> list[dict[str, Any]]:
    domain = {
        "domain": "shop",
        "answers": 90,
        "method": "platt",
        "knots": [[1.0, 0.0]],
        "own": True,
        "for_others": False,
        "arms": ["nearest", "rag"],
        "tau_r": 0.6,
        "curve": [[0.0, 0.5, 0.1, 1.0, 0.5]],
    }
    told = {"reward_model": tenant, "in_force": True, "saved_at": datetime.now(UTC), "aim": None}
    return [{**told, "domains": [domain]}]


@pytest.fixture
def keys() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def url(database: Database, keys: MemoryKeys) -> Iterator[str]:
    embedder = ScriptedEmbedder()
    scripted = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95)
    parts = scripted.parts()
    ledger = parts["ledger_store"] = PostgresLedgerStore(database)
    knowledge_base = PostgresKnowledgeBase(database, embedder)
    app = ServedParts(
        parts=parts,
        knowledge_base=knowledge_base,
        embedder=embedder,
        corrections=Corrections(
            ratings=PostgresRatingStore(database),
            knowledge_base=knowledge_base,
            embedder=embedder,
        ),
        history=ledger,
        calibrations=_calibrations,
    )
    with served(create_app(app, keys=keys)) as url:
        yield url


def ask(url: str, question: str, key: str | None = None, **ours: Any) -> str:
    talk = [{"role": "user", "content": question}]
    done = post(url, CHAT, {"model": "rttc", "messages": talk, "rttc": ours}, key=key)
    assert done.status_code == 200, done.text
    return str(done.json()["rttc"]["run_id"])


def listed(url: str, key: str | None = None, **which: Any) -> list[str]:
    reply = post(url, "/runs/list", which, key=key)
    assert reply.status_code == 200, reply.text
    return [run["run_id"] for run in reply.json()["runs"]]


def test_runs_are_listed_by_what_is_asked_for_and_shown_whole(url: str) -> None:
    first = ask(url, "what does a helmet cost", domain="math")
    second = ask(url, "what does a bell cost", tau_r=0.99)
    post(url, "/v1/feedback", {"run_id": first, "rating": "wrong", "answer": "35 euros"})
    today = datetime.now(UTC).date()
    yesterday, tomorrow = (str(today + timedelta(days=n)) for n in (-1, 1))
    asked: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [second, first]),
        ({"limit": 1}, [second]),
        ({"domain": "math"}, [first]),
        ({"domain": ""}, [second]),
        ({"accepted": True}, [first]),
        ({"accepted": False}, [second]),
        ({"arm": "ttt"}, [second, first]),
        ({"arm": "rag"}, []),
        ({"rated": "wrong"}, [first]),
        ({"rated": "right"}, []),
        ({"rated": "none"}, [second]),
        ({"first_day": yesterday, "last_day": tomorrow}, [second, first]),
        ({"last_day": yesterday}, []),
        ({"first_day": tomorrow}, []),
        ({"contains": "HELMET"}, [first]),
        ({"tenant": "another"}, []),
    ]
    for which, found in asked:
        assert listed(url, **which) == found, which
    page = post(url, "/runs/list", {"limit": 1}).json()
    assert listed(url, limit=1, after=page["next"]) == [first]
    assert post(url, "/runs/list", {"limit": 1, "after": page["next"]}).json()["next"] is None

    shown = post(url, "/runs/show", {"run_id": first}).json()
    assert (shown["query"], shown["domain"], shown["rated"]) == (
        "what does a helmet cost",
        "math",
        "wrong",
    )
    assert shown["rating"]["answer"] == "35 euros"
    assert shown["candidate"]["answer"] == "ttt"
    assert [(one["arm"], one["reward"]) for one in shown["tried"]][-1] == ("ttt", 0.95)
    seconds = [one["seconds"] for one in shown["tried"]]
    assert seconds == sorted(seconds)
    assert {"judged", "decided"} <= {entry["event"] for entry in shown["ledger"]}
    assert post(url, "/runs/show", {"run_id": first, "tenant": "b"}).status_code == 404


EVERYTHING = ["ask", "runs:read", "kb:read", "kb:write"]


def test_figures_and_calibrations_are_those_of_the_tenant(url: str) -> None:
    ask(url, "what does a helmet cost", domain="math")
    [row] = post(url, "/runs/stats", {"days": 7}).json()["rows"]
    assert (row["domain"], row["arm"], row["runs"], row["accepted"]) == ("math", "ttt", 1, 1)
    assert post(url, "/runs/stats", {"tenant": "b"}).json() == {"rows": []}
    [told] = post(url, "/runs/calibrations", {"tenant": "b"}).json()["calibrations"]
    assert told["reward_model"] == "b"
    assert told["domains"][0]["curve"] == [[0.0, 0.5, 0.1, 1.0, 0.5]]
    anybody = {"tenant": "default", "any_tenant": True, "scopes": EVERYTHING}
    assert get(url, "/me").json() == anybody


def test_what_cannot_be_is_refused(url: str) -> None:
    for path, body in REFUSED:
        refused = post(url, path, body)
        assert (refused.status_code, refused.json()["kind"]) == (422, "ConfigurationError"), body


REFUSED: list[tuple[str, Any]] = [
    ("/runs/list", {"limit": 0}),
    ("/runs/list", {"limit": 201}),
    ("/runs/list", {"after": "no page"}),
    ("/runs/list", {"after": "1:a\0"}),
    ("/runs/list", {"after": "²:a"}),
    ("/runs/list", {"contains": "a\0"}),
    ("/runs/list", {"domain": "a\0"}),
    ("/runs/list", {"first_day": "yesterday"}),
    ("/runs/list", {"armm": "rag"}),
    ("/runs/show", {"run_id": "a\0"}),
    ("/runs/stats", {"days": 0}),
    ("/runs/stats", {"days": 40_000}),
    ("/kb/correct", {"id": "a", "answer": "b"}),
    ("/kb/correct", {"id": "a" * 64, "answer": ""}),
    ("/kb/ingest", {"samples": [HELMET], "vectors": [[1, 0]]}),
    ("/kb/ingest", {"samples": [HELMET], "embedder": "embedder"}),
    ("/kb/ingest", {"samples": [HELMET] * 65}),
]


def test_samples_come_without_vectors_and_are_corrected_in_place(url: str) -> None:
    named = {**HELMET, "question": "what does a bell cost", "external_id": "bell"}
    stored = {"samples": [{**HELMET, "metadata": {"page": 3}}, named]}
    assert post(url, "/kb/ingest", stored).json() == {"samples": 2, "updated": 0}
    assert post(url, "/kb/ingest", stored).json() == {"samples": 0, "updated": 0}
    for text, expected in [("helmet", {"page": 3}), ("bell", {})]:
        [old] = post(url, "/kb/list", {"contains": text}).json()["samples"]
        done = post(url, "/kb/correct", {"id": old["id"], "answer": "35 euros"}).json()
        assert done["changed"]
        [new] = post(url, "/kb/list", {"contains": text}).json()["samples"]
        kept = {"id": done["id"], "answer": "35 euros"}
        assert new == {**old, **kept}
        assert new["metadata"] == expected
        again = post(url, "/kb/correct", {"id": new["id"], "answer": "35 euros"}).json()
        assert again == {"id": new["id"], "changed": False}
        assert post(url, "/kb/correct", {"id": old["id"], "answer": "x"}).status_code == 404
        elsewhere = {"id": new["id"], "answer": "x", "tenant": "another"}
        assert post(url, "/kb/correct", elsewhere).status_code == 404


ROUTES: list[tuple[str, str, Any]] = [
    ("runs:read", "/runs/list", {}),
    ("runs:read", "/runs/stats", {}),
    ("runs:read", "/runs/calibrations", {}),
    ("kb:write", "/kb/ingest", {"samples": []}),
]


def test_each_scope_opens_its_routes_and_no_other(url: str, keys: MemoryKeys) -> None:
    made = {scope: keys.add(scope) for scope in EVERYTHING}
    assert get(url, "/me").status_code == 401
    for scope, key in made.items():
        told = send("GET", f"{url}/me", headers={"authorization": f"Bearer {key}"}).json()
        assert told == {"tenant": "acme", "any_tenant": False, "scopes": [scope]}
    for needed, path, body in ROUTES:
        assert post(url, path, body).status_code == 401
        for scope, key in made.items():
            answer = post(url, path, body, key=key)
            assert answer.status_code == (200 if scope == needed else 403), (path, scope)
    for path, body in [("/runs/show", {"run_id": "x"}), ("/kb/correct", {"id": "a" * 64})]:
        assert post(url, path, body, key=made["ask"]).status_code == 403
    ask(url, "a secret of acme", made["ask"])
    assert len(listed(url, made["runs:read"])) == 1
    assert listed(url, keys.add("runs:read", tenant="other")) == []
    of_acme = {"tenant": "acme"}
    assert (
        post(url, "/runs/list", of_acme, key=keys.add("runs:read", tenant="b")).status_code == 403
    )


def test_a_run_whose_answers_could_not_be_judged_is_listed(database: Database) -> None:
    scripted = Parts()
    scripted.reward_model.error = RewardModelError("no GPU")
    parts = scripted.parts()
    ledger = parts["ledger_store"] = PostgresLedgerStore(database)
    with served(create_app(ServedParts(parts=parts, history=ledger))) as url:
        asked = ask(url, "what does a helmet cost", policy="majority", search_n=2)
        [listed_run] = post(url, "/runs/list", {}).json()["runs"]
    assert listed_run["run_id"] == asked
    assert {one["reward"] for one in listed_run["tried"]} == {None}
