"""Text that comes into a graph and goes out of it: forms, thoughts, and LangGraph's stream."""

from __future__ import annotations

from typing import Any, cast

import pytest
from graph_runs import ask, failures, run
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_fakes import SyncChat, says
from scripted_parts import Parts, ScriptedEmbedder, ScriptedPolicyModel, sample

from rttc_graph import ConfigurationError, NoAnswerError, create_rttc_graph
from rttc_graph.evaluation.scorers import is_right
from rttc_graph.graph import RttcGraph
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.protocols import Embedded, GenerationRequest, NewSample
from rttc_graph.run.prompts import (
    direct_messages,
    rag_messages,
    split_conversation,
    training_examples,
)
from rttc_graph.state import RttcInput

SAID = "<think>\nIs it no? Option A would say so, but 3 + 4 is not 8.\n</think>\n\n{}"


def graph_of(chat: Any) -> RttcGraph:
    def short(question: str, answer: str) -> float:
        return 0.9 if len(answer) < 20 else 0.1

    return create_rttc_graph(
        policy_model=ChatPolicyModel(chat), reward_model=CallableReward(short, name="short")
    )


async def shown(graph: RttcGraph, **settings: Any) -> list[str]:
    """Return what a user interface shows that follows the stream of messages."""
    found: dict[str, str] = {}
    stream = cast("Any", graph).astream(
        {"messages": [("user", "hi")]}, stream_mode="messages", context=settings
    )
    async for message, _ in stream:
        found[message.id] = found.get(message.id, "") + message.text
    return list(found.values())


async def test_the_stream_of_messages_shows_the_answer_once() -> None:
    assert await shown(graph_of(FakeListChatModel(responses=["forty-two"]))) == ["forty-two"]


async def test_the_stream_of_messages_shows_only_the_answer_that_was_taken() -> None:
    parts = Parts().parts()
    chat = FakeListChatModel(responses=["a long and bad first answer", "good"])
    parts["policy_model"] = ChatPolicyModel(chat)
    parts["reward_model"] = CallableReward(lambda q, a: 1 / len(a), name="short")
    parts["trainer"] = None
    graph = create_rttc_graph(**parts)
    assert await shown(graph, tau_r=0.9, policy="compare") == ["good"]


NO_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "number": ("query", {"query": 5}),
    "zero": ("query", {"query": 0}),
    "yes": ("query", {"query": True}),
    "list": ("query", {"query": ["hi"]}),
    "dict": ("query", {"query": {"text": "hi"}}),
    "bytes": ("query", {"query": b"hi"}),
    "domain-number": ("domain", {"query": "hi", "domain": 5}),
    "domain-list": ("domain", {"query": "hi", "domain": ["a"]}),
    "messages-number": ("messages", {"messages": 5}),
    "messages-bytes": ("messages", {"messages": b"hi"}),
    "message-number": ("messages", {"messages": [5]}),
    "message-none": ("messages", {"messages": [None]}),
    "message-without-text": ("messages", {"messages": [{"role": "user"}]}),
    "message-of-numbers": ("messages", {"messages": [("user", 5)]}),
    "message-of-nobody": ("messages", {"messages": [{"role": "nobody", "content": "a"}]}),
    "messages-beside": ("messages", {"query": "hi", "messages": 5}),
}


@pytest.mark.parametrize("face", ["invoke", "ainvoke"])
@pytest.mark.parametrize(("name", "given"), NO_TEXTS.values(), ids=NO_TEXTS.keys())
async def test_an_input_that_is_no_text_is_the_callers_mistake(
    name: str, given: dict[str, Any], face: Any
) -> None:
    graph = graph_of(FakeListChatModel(responses=["x"]))
    with pytest.raises(ConfigurationError, match=f"'{name}'"):
        await run(graph, cast("RttcInput", given), face)


@pytest.mark.parametrize("given", [{"query": "hi", "messages": None}, {"messages": "hi"}])
async def test_what_may_be_read_is_read(given: dict[str, Any]) -> None:
    graph = graph_of(FakeListChatModel(responses=["x"]))
    assert (await run(graph, cast("RttcInput", given)))["answer"] == "x"


@pytest.mark.parametrize("reference", ["Yes", "B", "blue", "7"])
async def test_what_a_model_thinks_is_not_its_answer(reference: str) -> None:
    said = SAID.format(reference)
    result = await run(graph_of(FakeListChatModel(responses=[said])), {"query": "?"})
    assert (result["answer"], result["reward"]) == (reference, 0.9)
    assert is_right(said, NewSample(question="?", answer=reference, domain="d"))
    assert any(one["detail"].get("thoughts_dropped") for one in result["ledger"])


async def test_thoughts_do_not_come_into_later_prompts() -> None:
    said = SAID.format("blue")
    query, history = split_conversation([HumanMessage("a"), AIMessage(said), HumanMessage("b")])
    solved = {**sample(1), "answer": said}
    prompts = [*direct_messages(query, history), *rag_messages("q", [cast("Any", solved)])]
    (example,) = training_examples([cast("Any", solved)])
    assert not any("think" in turn["content"] for turn in prompts)
    assert [turn["content"] for turn in prompts if turn["role"] == "assistant"] == ["blue", "blue"]
    assert example.answer == "blue"


async def test_thoughts_that_do_not_end_are_a_failure_that_has_its_cost() -> None:
    thinking = ScriptedPolicyModel(texts={"direct": "<think> hm, is it"})
    result = await ask(Parts(policy_model=thinking), policy="cascade")
    assert "tell it not to think" in " ".join(failures(result["ledger"]))
    assert result["arm"] != "direct"
    with pytest.raises(NoAnswerError, match="raise max_new_tokens"):
        await ask(Parts(policy_model=thinking), policy="direct")


REASONING = {
    "part": AIMessage([{"type": "reasoning", "reasoning": "is it"}, {"type": "text", "text": "7"}]),
    "thinking-part": AIMessage(
        [{"type": "thinking", "thinking": "is it"}, {"type": "text", "text": "7"}]
    ),
    "beside": AIMessage("7", additional_kwargs={"reasoning_content": "is it"}),
    "in-the-text": AIMessage("is it\n</think>\n7"),
}


@pytest.mark.parametrize("message", REASONING.values(), ids=REASONING.keys())
async def test_a_vendors_reasoning_is_not_the_answer(message: AIMessage) -> None:
    assert (await run(graph_of(SyncChat(answer=lambda _: message)), {"query": "?"}))[
        "answer"
    ] == "7"


@pytest.mark.parametrize(
    "message",
    [
        AIMessage([{"type": "reasoning", "reasoning": "is it"}]),
        AIMessage("", additional_kwargs={"reasoning_content": "is it"}),
    ],
    ids=["part", "beside"],
)
async def test_a_vendors_reasoning_without_an_answer_is_a_failure(message: AIMessage) -> None:
    with pytest.raises(NoAnswerError, match="gave no answer"):
        await run(graph_of(SyncChat(answer=lambda _: message)), {"query": "?"})


async def test_half_a_surrogate_pair_reaches_a_chat_model_as_a_question_mark() -> None:
    chat = SyncChat(answer=says("x"))
    request = GenerationRequest(
        messages=direct_messages("\ud83d hi", [{"role": "assistant", "content": "\ud83d"}]),
        max_new_tokens=4,
    )
    await ChatPolicyModel(chat).generate([request])
    assert [message.text for message in chat.calls[0]["messages"][1:]] == ["?", "? hi"]


class ShortSighted(ScriptedEmbedder):
    """Reads four characters of a text."""

    async def embed_measured(self, texts: Any) -> list[Embedded]:
        vectors = await self.embed(texts)
        return [
            Embedded(vector=vector, unread=max(0, len(text) - 4))
            for text, vector in zip(texts, vectors, strict=True)
        ]


async def test_a_question_that_was_cut_for_the_embedder_is_noted_and_recalls_nothing() -> None:
    parts = Parts(embedder=ShortSighted())
    first = await ask(parts, policy="rag")
    again = await ask(parts, policy="rag")
    for result in (first, again):
        (note,) = [one for one in result["ledger"] if one["event"] == "shortened"]
        assert note["detail"]["characters_unread"] > 0
        assert result["cache"] == {"samples": "miss", "adapter": "miss"}
