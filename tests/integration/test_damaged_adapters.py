"""A stored adapter that a disk has damaged is found out and trained again in the same run."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from postgres_fixtures import NumberEmbedder

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import NewSample
from rttc_graph.testing import MemoryKnowledgeBase

FLIPPED = "set_byte(weights, length(weights) - 1, get_byte(weights, length(weights) - 1) # 1)"
TRUNCATED = "substr(weights, 1, 2000)"
OLD = ", sha256 = null"


class Samples(MemoryKnowledgeBase):
    """Two samples under one revision."""

    async def fill(self) -> Samples:
        made = [NewSample(question=f"number {n}", answer=f"a {n}", domain="d") for n in (1, 2)]
        vectors = await NumberEmbedder().embed([sample.question for sample in made])
        await self.ingest(made, vectors, tenant="default")
        return self


async def ask(engine: LocalEngine, database: Database, query: str, **more: Any) -> Any:
    """Ask with nothing resident, as a process that was just started does."""
    trainer = LoraTrainer(engine)
    graph = create_rttc_graph(
        policy_model=TransformersPolicyModel(engine),
        reward_model=CallableReward(lambda query, answer: 0.5, name="half"),
        embedder=NumberEmbedder(),
        knowledge_base=await Samples().fill(),
        cache=PostgresQueryStateCache(database),
        trainer=trainer,
    )
    settings = RttcSettings(policy="ttt", k=2, max_new_tokens=4, **more)
    return await graph.ainvoke({"query": query, "domain": "d"}, context=settings)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(f"weights = {FLIPPED}", id="a-flipped-bit"),
        pytest.param(f"weights = {TRUNCATED}", id="truncated"),
        pytest.param(f"weights = {TRUNCATED}{OLD}", id="truncated-without-a-digest"),
        pytest.param("provenance = '{}'", id="without-its-configuration"),
        pytest.param(
            "provenance = jsonb_set(provenance, '{peft_config,r}', '3')", id="another-shape"
        ),
    ],
)
@pytest.mark.parametrize("seen", [False, True], ids=["another-query", "the-same-query"])
async def test_a_damaged_adapter_is_trained_again(
    tiny_model_path: Any, database: Database, postgres_dsn: str, damage: str, seen: bool
) -> None:
    engines = [LocalEngine(tiny_model_path, threads=1) for _ in range(3)]
    first = await ask(engines[0], database, "number 3")
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"update rttc_adapter set {damage}".encode())  # noqa: S608
    query = "number 3" if seen else "number 4"

    second = await ask(engines[1], database, query)
    third = await ask(engines[2], database, query)

    assert [one["arm"] for one in (first, second, third)] == ["ttt"] * 3
    events = [
        [e["event"] for e in one["ledger"] if e["node"] == "ttt_adapt"] for one in (second, third)
    ]
    assert events[0][-1] == "trained"
    assert "trained" not in events[1]
    assert third["answer"] == first["answer"] if seen else second["answer"]
    for engine in engines:
        engine.close()


async def test_an_adapter_of_before_there_were_digests_gets_one_when_it_is_used(
    tiny_model_path: Any, database: Database, postgres_dsn: str
) -> None:
    engines = [LocalEngine(tiny_model_path, threads=1) for _ in range(2)]
    await ask(engines[0], database, "number 3")
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("update rttc_adapter set sha256 = null")
        output = await ask(engines[1], database, "number 4", reuse_loss=0)
        found = connection.execute("select sha256 = sha256(weights) from rttc_adapter").fetchall()
    assert output["ledger"][-3]["event"] != "trained"
    assert found == [(True,)]
    for engine in engines:
        engine.close()
