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
def test_the_hard_question_is_answered_by_training_and_then_by_recall(
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
    (_, trained), (_, recalled) = script(known)[-2:]
    assert trained == recalled

    async def asked_twice(local: LocalRttc) -> list[Any]:
        same_kind = [sample for sample in known if sample.domain == trained.domain]
        await ingest(same_kind, local.knowledge.knowledge_base, local.knowledge.embedder)
        question = trained.question
        return [await local.ask(question, domain=trained.domain) for _ in range(2)]

    with open_local(config) as local:
        first, second = asyncio.run(asked_twice(local))

    assert first["answer"] == second["answer"]
    assert is_right(first["answer"], trained)
    assert [candidate["arm"] for candidate in first["candidates"]] == ["nearest", "rag", "ttt"]
    assert [candidate["arm"] for candidate in second["candidates"]] == ["nearest", "ttt"]
    assert second["cache"]["adapter"] == "hit"
