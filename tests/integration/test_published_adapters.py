"""Adapters trained here answer on a server that loads them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import langchain_openai
import pytest
from lora_server import (
    HEN_EXAMPLES,
    HEN_QUESTION,
    HEN_SETTINGS,
    LoraServer,
    lora_server,
    refusal,
    served_policy,
)
from postgres_fixtures import NumberEmbedder
from pydantic import SecretStr

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.errors import (
    AdaptationError,
    ConfigurationError,
    PolicyModelError,
    UnusableAdapterError,
)
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.publishing_trainer import PublishingTrainer
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import AdapterTrainer, GenerationRequest, NewSample, TrainedAdapter
from rttc_graph.testing import MemoryKnowledgeBase


@pytest.fixture
def server(tiny_model_path: Path) -> Iterator[tuple[str, LoraServer]]:
    with lora_server(tiny_model_path) as found:
        yield found


@pytest.fixture
def local(tiny_engine: LocalEngine) -> LoraTrainer:
    return LoraTrainer(tiny_engine)


@pytest.fixture
def trainer(
    local: LoraTrainer, server: tuple[str, LoraServer], tmp_path: Path
) -> Iterator[PublishingTrainer]:
    found = PublishingTrainer(local, url=server[0], folder=tmp_path / "adapters", max_published=2)
    yield found
    found.close()


async def trained(trainer: AdapterTrainer, key: str) -> TrainedAdapter:
    return await trainer.train(key, HEN_EXAMPLES, HEN_SETTINGS, on_step=lambda step: None)


@pytest.fixture
async def some_adapter(local: LoraTrainer) -> TrainedAdapter:
    """An adapter of one step, for tests that look at no answer."""
    quick = replace(HEN_SETTINGS, epochs=1)
    return await local.train("a0", HEN_EXAMPLES, quick, on_step=lambda step: None)


@pytest.mark.parametrize("adapter", [None, "a1"])
async def test_the_server_says_what_the_local_model_says(
    server: tuple[str, LoraServer],
    trainer: PublishingTrainer,
    tiny_engine: LocalEngine,
    adapter: str | None,
) -> None:
    await trained(trainer, "a1")
    request = GenerationRequest(messages=(HEN_QUESTION,), max_new_tokens=12, adapter=adapter)

    [here] = await TransformersPolicyModel(tiny_engine).generate([request])
    [there] = await served_policy(server[0]).generate([request])

    assert there.text == here.text
    assert (here.text == "the tin hen") == (adapter is not None)


async def test_the_graph_trains_here_and_answers_there(
    server: tuple[str, LoraServer], trainer: PublishingTrainer
) -> None:
    knowledge_base, embedder = MemoryKnowledgeBase(), NumberEmbedder()
    samples = [NewSample(question=f"number {n}", answer="the tin hen", domain="d") for n in (1, 2)]
    vectors = await embedder.embed([sample.question for sample in samples])
    await knowledge_base.ingest(samples, vectors, tenant="default")
    graph = create_rttc_graph(
        policy_model=served_policy(server[0]),
        reward_model=CallableReward(lambda query, answer: float("tin hen" in answer), name="hen"),
        embedder=embedder,
        knowledge_base=knowledge_base,
        trainer=trainer,
        settings=RttcSettings(
            ttt_learning_rate=2e-2, ttt_epochs=20, ttt_rank=4, ttt_stop_loss=0.0, max_new_tokens=12
        ),
    )

    output = await graph.ainvoke({"query": "number 3"}, context=RttcSettings(policy="ttt"))

    assert output["answer"] == "the tin hen"
    assert output["candidates"][0]["adapter"] in server[1].models


async def test_the_server_keeps_so_many_adapters_and_forgets_the_oldest(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, tmp_path: Path
) -> None:
    for key in ("a1", "a2"):
        await trained(trainer, key)
    assert await trainer.is_resident("a1")  # which counts as a use

    await trained(trainer, "a3")

    assert sorted(server[1].models) == ["a1", "a3", "base"]
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["a1", "a3"]
    assert not await trainer.is_resident("a2")


async def test_a_server_that_was_started_anew_gets_its_adapters_again(
    server: tuple[str, LoraServer], trainer: PublishingTrainer
) -> None:
    adapter = await trained(trainer, "a1")
    del server[1].models["a1"]
    assert not await trainer.is_resident("a1")

    await trainer.load(adapter)
    await trainer.load(adapter)  # it has it: nothing to do

    assert await trainer.is_resident("a1")


async def test_one_that_another_process_published_meanwhile_is_there(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, tmp_path: Path
) -> None:
    adapter = await trained(trainer, "a1")
    served = server[1]
    del served.models["a1"]
    load = served.load

    def loaded_by_another(given: Mapping[str, str]) -> tuple[int, Any]:
        load(given)
        return 400, {"error": {"message": "it has been loaded already"}}

    served.load = loaded_by_another  # type: ignore[method-assign]
    await trainer.load(adapter)
    assert await trainer.is_resident("a1")


async def test_the_bound_holds_after_a_start_anew_of_either_side(
    server: tuple[str, LoraServer],
    local: LoraTrainer,
    trainer: PublishingTrainer,
    some_adapter: TrainedAdapter,
    tmp_path: Path,
) -> None:
    """What an earlier process has published counts, and what the server has forgotten does not."""
    for key in ("a1", "a2"):
        await trainer.load(replace(some_adapter, key=key))
    served, folder = server[1], tmp_path / "adapters"
    later = PublishingTrainer(local, url=server[0], folder=folder, max_published=2)
    await later.load(replace(some_adapter, key="a3"))
    assert sorted(served.models) == ["a2", "a3", "base"]
    assert sorted(path.name for path in folder.iterdir()) == ["a2", "a3"]

    served.restart()
    await later.load(replace(some_adapter, key="a4"))
    await later.load(replace(some_adapter, key="a5"))
    assert sorted(served.models) == ["a4", "a5", "base"]
    later.close()


async def test_one_that_another_process_unloaded_meanwhile_is_gone(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, some_adapter: TrainedAdapter
) -> None:
    for key in ("a1", "a2"):
        await trainer.load(replace(some_adapter, key=key))
    unload = server[1].unload

    def unloaded_by_another(given: Mapping[str, str]) -> tuple[int, Any]:
        unload(given)
        return unload(given)

    server[1].unload = unloaded_by_another  # type: ignore[method-assign]
    await trainer.load(replace(some_adapter, key="a3"))
    assert sorted(server[1].models) == ["a2", "a3", "base"]


async def test_a_server_that_fails_to_unload_says_so(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, some_adapter: TrainedAdapter
) -> None:
    for key in ("a1", "a2"):
        await trainer.load(replace(some_adapter, key=key))
    server[1].unload = lambda given: refusal(500, "engine dead")  # type: ignore[method-assign]
    with pytest.raises(AdaptationError, match="500: engine dead") as caught:
        await trainer.load(replace(some_adapter, key="a3"))
    assert caught.value.retryable


async def test_what_a_server_lacks_is_named_with_the_way_out(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, some_adapter: TrainedAdapter
) -> None:
    server[1].max_rank = 2
    with pytest.raises(AdaptationError, match="400: LoRA rank 4 is greater than max_lora_rank 2"):
        await trainer.load(replace(some_adapter, key="a1"))
    server[1].takes_adapters = False
    with pytest.raises(AdaptationError, match=r"404: Not Found.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        await trainer.load(replace(some_adapter, key="a1"))
    [answer] = await served_policy(server[0]).generate(
        [GenerationRequest(messages=(HEN_QUESTION,), max_new_tokens=4)]
    )
    assert answer.completion_tokens > 0


async def test_an_adapter_that_was_unloaded_before_its_answer_is_named(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, some_adapter: TrainedAdapter
) -> None:
    await trainer.load(replace(some_adapter, key="a1"))
    server[1].restart()
    request = GenerationRequest(messages=(HEN_QUESTION,), max_new_tokens=4, adapter="a1")
    with pytest.raises(PolicyModelError, match=r"The model `a1` does not exist"):
        await served_policy(server[0]).generate([request])


@pytest.mark.parametrize("weights", [b"", b"weights", None], ids=["empty", "odd", "truncated"])
async def test_a_damaged_adapter_is_not_published(
    server: tuple[str, LoraServer], trainer: PublishingTrainer, weights: bytes | None
) -> None:
    adapter = await trained(trainer, "a1")
    del server[1].models["a1"]
    bad = replace(adapter, weights=adapter.weights[:900] if weights is None else weights)
    with pytest.raises(UnusableAdapterError, match="damaged"):
        await trainer.load(bad)
    assert "a1" not in server[1].models


async def test_an_adapter_is_tried_here_whether_the_server_has_it_or_not(
    server: tuple[str, LoraServer], trainer: PublishingTrainer
) -> None:
    adapter = await trained(trainer, "a1")
    del server[1].models["a1"]

    assert await trainer.loss(adapter, HEN_EXAMPLES) < 0.5 < adapter.losses[0]
    assert not await trainer.is_resident("a1")


async def test_what_the_server_refuses_is_said(
    server: tuple[str, LoraServer], tiny_engine: LocalEngine, tmp_path: Path
) -> None:
    elsewhere = PublishingTrainer(
        LoraTrainer(tiny_engine), url=server[0], folder=tmp_path, server_folder="/nowhere"
    )
    with pytest.raises(AdaptationError, match=r"refused POST .* 404: .*/nowhere/a1"):
        await trained(elsewhere, "a1")
    with pytest.raises(AdaptationError, match="cannot name a folder"):
        await trained(elsewhere, "../a1")
    elsewhere.close()


async def test_a_server_that_is_gone_is_named(tiny_engine: LocalEngine, tmp_path: Path) -> None:
    gone = PublishingTrainer(
        LoraTrainer(tiny_engine), url="http://127.0.0.1:1", folder=tmp_path, timeout_seconds=5
    )
    with pytest.raises(AdaptationError, match=r"127\.0\.0\.1:1 did not answer") as caught:
        await gone.is_resident("a1")
    assert caught.value.retryable
    gone.close()


async def test_a_policy_model_without_adapters_says_so(server: tuple[str, LoraServer]) -> None:
    client = langchain_openai.ChatOpenAI(
        model="base", base_url=f"{server[0]}/v1", api_key=SecretStr("none")
    )
    request = GenerationRequest(messages=(HEN_QUESTION,), max_new_tokens=4, adapter="a1")
    with pytest.raises(PolicyModelError, match="adapter_option"):
        await ChatPolicyModel(client).generate([request])


def test_at_least_one_adapter_must_fit(tiny_engine: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_published=0"):
        PublishingTrainer(
            LoraTrainer(tiny_engine), url="http://x", folder=tmp_path, max_published=0
        )
