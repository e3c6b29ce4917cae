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


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        pytest.param(
            "policy_model",
            FakeListChatModel(responses=["a"]),
            r"a FakeListChatModel, which has no context_tokens, count_tokens: .*"
            r"chat_policy_model\.ChatPolicyModel\(chat_model\)",
            id="a-chat-model-that-answers",
        ),
        pytest.param(
            "reward_model",
            judge,
            r"which has no fingerprint, score: .*CallableReward\(function\)",
            id="a-function-that-judges",
        ),
        pytest.param(
            "reward_model",
            FakeListChatModel(responses=["a"]),
            r"chat_judge\.ChatJudge\(chat_model\)",
            id="a-chat-model-that-judges",
        ),
        pytest.param(
            "embedder",
            DeterministicFakeEmbedding(size=3),
            r"which has no dimension, embed, fingerprint, name: .*LangChainEmbedder\(embeddings,",
            id="embeddings",
        ),
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


def test_parts_that_fit_and_parts_that_are_none_make_a_graph() -> None:
    parts: dict[str, Any] = {**Parts().parts(), "cache": None, "settings": RttcSettings(k=3)}
    assert create_rttc_graph(**parts)
