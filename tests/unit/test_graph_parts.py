"""A part of the wrong kind is refused when the graph is built, with what makes a part of it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from scripted_parts import Parts, ScriptedPolicyModel

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph


def judge(question: str, answer: str) -> float:
    return float(question == answer)


def judge_of_one(answer: str) -> float:
    return float(bool(answer))


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        pytest.param("policy_model", object(), r"give a LangChain chat model", id="an-object"),
        pytest.param("policy_model", judge, r"give a LangChain chat model", id="a-function"),
        pytest.param(
            "reward_model", object(), r"no fingerprint, score: give a function", id="no-judge"
        ),
        pytest.param(
            "reward_model",
            judge_of_one,
            r"cannot be called with a question and an answer",
            id="a-function-of-one-text",
        ),
        pytest.param("embedder", judge, r"give LangChain's Embeddings", id="no-embeddings"),
        pytest.param(
            "knowledge_base", {}, r"which has no .*search.*protocols\.KnowledgeBase", id="a-dict"
        ),
        pytest.param("trainer", object(), r"protocols\.AdapterTrainer", id="no-trainer"),
        pytest.param("cache", object(), r"protocols\.QueryStateCache", id="no-cache"),
        pytest.param("ledger_store", (), r"a tuple, which has no append", id="a-tuple"),
        pytest.param(
            "policy_model", ScriptedPolicyModel, r"the class ScriptedPolicyModel", id="a-class"
        ),
        pytest.param("settings", {"k": 3}, r"a dict: give RttcSettings", id="settings"),
    ],
)
def test_a_part_of_another_kind_is_refused_when_the_graph_is_built(
    name: str, part: Any, words: str
) -> None:
    parts: dict[str, Any] = {**Parts().parts(), name: part}
    with pytest.raises(ConfigurationError, match=rf"(?s)^{name} is .*{words}"):
        create_rttc_graph(**parts)


async def slow_judge(question: str, answer: str) -> float:
    return judge(question, answer)


@pytest.mark.parametrize(
    "reward_model",
    [
        pytest.param(judge, id="function"),
        pytest.param(slow_judge, id="coroutine-function"),
        pytest.param(FakeListChatModel(responses=["10"]), id="chat-model"),
    ],
)
async def test_what_people_have_at_hand_becomes_a_part(reward_model: Any) -> None:
    parts = Parts()
    graph = create_rttc_graph(
        policy_model=FakeListChatModel(responses=["same"]),
        reward_model=reward_model,
        embedder=DeterministicFakeEmbedding(size=3),
        knowledge_base=parts.knowledge_base,
    )
    output = await graph.ainvoke({"query": "same"}, context=RttcSettings(policy="direct"))
    assert (output["answer"], output["reward"], output["accepted"]) == ("same", 1.0, True)


async def test_a_closed_arm_is_told_in_the_ledger_of_runs_that_might_have_taken_it() -> None:
    reason = "ttt is closed: the model is elsewhere"
    parts: dict[str, Any] = {**Parts().parts(), "trainer": None, "closed_arms": {"ttt": reason}}
    graph = create_rttc_graph(**parts)

    async def told(**settings: Any) -> list[str]:
        output = await graph.ainvoke({"query": "q"}, context=RttcSettings(**settings))
        return [e["detail"]["reason"] for e in output["ledger"] if e["event"] == "noted"]

    assert await told() == [reason]
    assert await told(policy="compare", arms="rag,ttt") == [reason]
    assert await told(arms="rag") == []
    assert await told(policy="rag") == []
    with pytest.raises(ConfigurationError, match=rf"policy='ttt': {reason}; take another policy"):
        await told(policy="ttt")


def test_parts_that_fit_and_parts_that_are_none_make_a_graph() -> None:
    parts: dict[str, Any] = {**Parts().parts(), "cache": None, "settings": RttcSettings(k=3)}
    assert create_rttc_graph(**parts)
