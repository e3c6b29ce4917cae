"""What the demo promises in its titles, from the models that it uses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tiny_models import real_model_folder

from rttc_graph.installation.ask_question import AskResult
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.jobs.run_demo import MAX_NEW_TOKENS
from rttc_graph.jobs.support_desk import asked_questions, known_questions
from rttc_graph.samples.ingest import ingest

ROUTES = [["nearest"], ["nearest", "rag"], ["best_of_n"], ["nearest", "rag", "ttt"]]


@pytest.mark.model
@pytest.mark.timeout(300)
def test_each_question_takes_the_route_of_its_title(
    smollm2_path: Path, request: pytest.FixtureRequest, tmp_path: Path, postgres_dsn: str
) -> None:
    config = InstallationConfig(
        home=tmp_path,
        database_url=postgres_dsn,
        model=str(smollm2_path),
        embedder=str(real_model_folder("all-minilm-l6-v2", request)),
        max_new_tokens=MAX_NEW_TOKENS,
    )

    async def asked(local: LocalRttc) -> list[AskResult]:
        await ingest(known_questions(), local.knowledge.knowledge_base, local.knowledge.embedder)
        return [
            await local.ask(row.question, domain=row.domain, settings=settings)
            for _, row, settings in asked_questions()
        ]

    with open_local(config) as local:
        found = asyncio.run(asked(local))

    arms = [[candidate["arm"] for candidate in one["candidates"]] for one in found]
    assert arms[:4] == ROUTES
    assert arms[4][-1] == "ttt"  # at once, or behind RAG where a busy machine still stores it
    assert all(one["accepted"] for one in found)
    assert [one["answer"] for one in found] == [row.answer for _, row, _ in asked_questions()]
    drawn = [e["detail"]["rewards"] for e in found[2]["ledger"] if e["event"] == "judged"]
    assert drawn[0][0] < 0.5 <= max(drawn[0])  # the first draw is what RAG alone answers
    assert [one["cache"]["adapter"] for one in found[3:]] == ["miss", "hit"]
    assert "trained" not in {entry["event"] for entry in found[4]["ledger"]}


def test_no_question_of_the_demo_is_among_its_samples() -> None:
    known = known_questions()
    assert len({row.question for row in known}) == len(known)
    asked = [row for _, row, _ in asked_questions()]
    assert {row.question for row in known}.isdisjoint(row.question for row in asked)
    assert {row.domain for row in asked} == {row.domain for row in known}
