"""What the demo promises in its titles, from the models that it uses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tiny_models import real_model_folder

from rttc_graph.evaluation.scorers import is_right
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.jobs.demo_samples import samples
from rttc_graph.jobs.run_demo import MAX_NEW_TOKENS, SAMPLES_PER_TASK, script
from rttc_graph.samples.ingest import ingest


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
    known = samples(SAMPLES_PER_TASK)
    rows = [row for _, row in script(known)]
    general, near, trained, recalled, unsure = rows
    assert trained == recalled

    async def asked(local: LocalRttc) -> list[Any]:
        await ingest(known, local.knowledge.knowledge_base, local.knowledge.embedder)
        domains = [None, *(row.domain for row in rows[1:])]
        return [
            await local.ask(row.question, domain=domain)
            for row, domain in zip(rows, domains, strict=True)
        ]

    with open_local(config) as local:
        found = asyncio.run(asked(local))

    assert [[candidate["arm"] for candidate in one["candidates"]] for one in found] == [
        ["direct"],
        ["nearest"],
        ["nearest", "rag", "ttt"],
        ["nearest", "ttt"],
        ["nearest", "rag", "ttt"],
    ]
    assert [one["accepted"] for one in found] == [True, True, True, True, False]
    assert general.answer in found[0]["answer"]
    assert all(is_right(one["answer"], row) for one, row in zip(found[1:4], rows[1:4], strict=True))
    assert (near.domain, unsure.domain) == ("sentences", "sequences")
    assert found[3]["cache"]["adapter"] == "hit"
