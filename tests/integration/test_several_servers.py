"""Several servers of one model: where requests and adapters go, and what happens when one fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from lora_server import (
    HEN_EXAMPLES,
    HEN_QUESTION,
    HEN_SETTINGS,
    lora_server,
    served_policy,
)
from openai_server import openai_server

from rttc_graph.errors import BackendError, ConfigurationError, PolicyModelError
from rttc_graph.installation.config import load_config
from rttc_graph.installation.configured_policy import open_policy
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.langchain.hosted_models import hosted_name
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.publishing_trainer import PublishingTrainer
from rttc_graph.integrations.remote.several_servers import (
    ServerOrder,
    SeveralPolicyModels,
    SeveralTrainers,
)
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import GenerationRequest, can_continue, can_follow_schema

KEYS = [f"key{number}" for number in range(300)]


def test_adapters_are_spread_and_a_server_less_moves_its_own_alone() -> None:
    three, two = ServerOrder(["a", "b", "c"]), ServerOrder(["a", "b"])
    before = {key: three.of(key)[0] for key in KEYS}
    assert min(Counter(before.values()).values()) > 70
    moved = {key for key in KEYS if two.of(key)[0] != before[key]}
    assert moved == {key for key in KEYS if before[key] == "c"}
    assert {key: ServerOrder(["c", "b", "a"]).of(key)[0] for key in KEYS} == before


def test_a_server_that_failed_comes_last_for_a_while() -> None:
    now = [0.0]
    order = ServerOrder(["a", "b"], retry_seconds=30, clock=lambda: now[0])
    with pytest.raises(BackendError), order.asked("a"):
        raise BackendError("refused", retryable=False)
    assert order.of(None) == ["a", "b"]
    with pytest.raises(BackendError), order.asked("a"):
        raise BackendError("no route", retryable=True)
    assert order.of(None) == ["b", "a"]
    assert {order.of(key)[0] for key in KEYS} == {"b"}
    now[0] = 30.0
    assert order.of(None) == ["a", "b"]
    with pytest.raises(BackendError), order.asked("a"):
        raise BackendError("no route", retryable=True)
    with order.asked("a"):  # it is asked all the same, and answers
        pass
    assert order.of(None) == ["a", "b"]


def test_the_server_with_the_least_to_do_is_first() -> None:
    order = ServerOrder(["a", "b"])
    with order.asked("a"):
        assert order.of(None) == ["b", "a"]
        with order.asked("b"), order.asked("b"):
            assert order.of(None) == ["a", "b"]
    assert order.of(None) == ["a", "b"]


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_servers_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="each of them once"):
        ServerOrder(names)
    with pytest.raises(ConfigurationError, match="not those of the order"):
        SeveralPolicyModels({}, ServerOrder(["a"]))


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_recalled_adapter_is_used_though_its_server_fails(
    tiny_engine: LocalEngine, tiny_model_path: Path, tmp_path: Path, copies: int
) -> None:
    """With two copies at once; with one, when it was loaded anew as the graph does."""
    local = LoraTrainer(tiny_engine)
    with lora_server(tiny_model_path) as (a, of_a), lora_server(tiny_model_path) as (b, of_b):
        servers = {a: of_a, b: of_b}
        order = ServerOrder([a, b])
        publishers = {
            url: PublishingTrainer(local, url=url, folder=tmp_path / str(number))
            for number, url in enumerate(servers)
        }
        trainer = SeveralTrainers(local, publishers, order, copies=copies)
        policy = SeveralPolicyModels({url: served_policy(url) for url in servers}, order)
        asked = GenerationRequest(messages=(HEN_QUESTION,), max_new_tokens=12, adapter="a1")

        adapter = await trainer.train("a1", HEN_EXAMPLES, HEN_SETTINGS, on_step=lambda step: None)
        home = order.of("a1")[0]
        holders = {url for url, one in servers.items() if "a1" in one.models}
        assert home in holders
        assert len(holders) == copies
        [answer] = await policy.generate([asked])
        assert answer.text == "the tin hen"

        servers[home].is_down = True
        if copies == 1:
            assert not await trainer.is_resident("a1")
            await trainer.load(adapter)
        [answer] = await policy.generate([asked])
        assert answer.text == "the tin hen"
        of_a.is_down = of_b.is_down = True
        with pytest.raises(PolicyModelError):
            await policy.generate([asked])
        for publisher in publishers.values():
            publisher.close()


@pytest.mark.parametrize("all_can", [True, False])
def test_a_schema_is_for_servers_that_all_take_one(all_can: bool) -> None:
    chat = FakeListChatModel(responses=["x"])
    models = {
        name: ChatPolicyModel(chat, follows_schemas=can)
        for name, can in (("a", True), ("b", all_can))
    }
    assert can_follow_schema(SeveralPolicyModels(models, ServerOrder(["a", "b"]))) is all_can


def test_a_setting_names_several_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Equal prompts go together, others apart; a server that is gone is not missed."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as first, openai_server() as there:
        here = first.enter_context(openai_server())
        config = load_config(model=f"{here.url}/v1,{there.url}/v1", home=tmp_path)
        with open_policy(config) as policy:
            assert can_follow_schema(policy.model)
            requests = [
                GenerationRequest(messages=({"role": "user", "content": text},), max_new_tokens=4)
                for text in ("a", "b", "a")
            ]
            answers = asyncio.run(policy.model.generate(requests))
            assert [one.text for one in answers] == ["42"] * 3
            assert sorted(len(one.chats()) for one in (here, there)) == [1, 2]
            assert policy.model.name == f"{here.url}/v1,{there.url}/v1#small-chat"
            assert "ttt" in policy.closed_arms
            first.close()
            answers = asyncio.run(policy.model.generate(requests))
            assert [one.text for one in answers] == ["42"] * 3
        swapped = load_config(model=f"{there.url}/v1,{here.url}/v1#small-chat", home=tmp_path)
        with open_policy(config) as one, open_policy(swapped) as other:

            async def fingerprints() -> set[str]:
                return {await one.fingerprint(), await other.fingerprint()}

            assert len(asyncio.run(fingerprints())) == 1


@pytest.mark.parametrize("servers", [1, 2])
def test_a_setting_says_that_servers_go_on(
    servers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = GenerationRequest(
        messages=({"role": "user", "content": "a"},), answer_prefix="It is", max_new_tokens=4
    )
    with openai_server() as one, openai_server() as other:
        names = [f"{server.url}/v1#small-chat" for server in (one, other)]
        config = load_config(model=",".join(names[:servers]), continues_answers=True, home=tmp_path)
        with open_policy(config) as policy:
            assert can_continue(policy.model)
            assert "beam" not in policy.closed_arms
            asyncio.run(policy.model.generate([begun]))
        (sent,) = [*one.chats(), *other.chats()]
        assert sent["continue_final_message"] is True
        assert sent["messages"][-1] == {"role": "assistant", "content": "It is"}


def test_several_servers_have_one_model() -> None:
    name = hosted_name("http://a/v1, http://b/v1#m,http://a/v1", "model")
    assert name is not None
    assert (name.url, name.others, name.model) == ("http://a/v1", ("http://b/v1",), "m")
    assert [one.text for one in name.servers()] == ["http://a/v1#m", "http://b/v1#m"]
    with pytest.raises(ConfigurationError, match="one policy model"):
        hosted_name("http://a/v1#m,http://b/v1#n", "model")
    with pytest.raises(ConfigurationError, match="one policy model"):
        hosted_name("http://a/v1,http://b/v1#n", "reward")
