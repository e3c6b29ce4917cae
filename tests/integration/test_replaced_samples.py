"""What was trained on a sample that another has replaced answers no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from postgres_fixtures import NumberEmbedder

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import NewSample


@pytest.mark.parametrize("query", ["number 3", "number 4"], ids=["the-same-query", "a-near-query"])
async def test_an_adapter_of_a_replaced_sample_is_not_used(
    tiny_model_path: Path, database: Database, query: str
) -> None:
    engine, embedder = LocalEngine(tiny_model_path, threads=1), NumberEmbedder()
    knowledge_base = PostgresKnowledgeBase(database, embedder)
    graph = create_rttc_graph(
        policy_model=TransformersPolicyModel(engine),
        reward_model=CallableReward(lambda query, answer: 0.5, name="half"),
        embedder=embedder,
        knowledge_base=knowledge_base,
        cache=PostgresQueryStateCache(database),
        trainer=LoraTrainer(engine),
    )

    async def store(answer: str) -> None:
        sample = NewSample(question="number 3", answer=answer, domain="d", external_id="x")
        vectors = await embedder.embed([sample.question])
        await knowledge_base.ingest([sample], vectors, tenant="default")

    async def ask(query: str) -> Any:
        # The embedder's cosines say nothing of how far a sample is.
        settings = RttcSettings(policy="ttt", k=2, max_new_tokens=4, evidence_similarity=0)
        output = await graph.ainvoke({"query": query, "domain": "d"}, context=settings)
        return output, [e for e in output["ledger"] if e["node"] in ("retrieve", "ttt_adapt")]

    await store("wrong")
    before, _ = await ask("number 3")
    again, _ = await ask("number 3")
    assert (before["arm"], again["cache"]["adapter"]) == ("ttt", "hit")

    await store("right")
    after, events = await ask(query)

    assert after["cache"] == {"samples": "miss", "adapter": "miss"}
    assert events[-1]["event"] == "trained"
    old, new = (one["candidates"][-1]["adapter"] for one in (before, after))
    assert old != new
    engine.close()
