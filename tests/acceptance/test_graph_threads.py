"""Threads with a checkpointer: clean second runs, conversations, forks, interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from graph_runs import Face, arms, run
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from scripted_parts import Parts, ScriptedPolicyModel

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph
from rttc_graph.graph import RttcGraph
from rttc_graph.protocols import Generation, GenerationRequest

CONFIG: RunnableConfig = {"configurable": {"thread_id": "1"}}


def threaded(parts: Parts) -> RttcGraph:
    return create_rttc_graph(checkpointer=InMemorySaver(), **parts.parts())


def state_of(graph: RttcGraph) -> dict[str, Any]:
    return cast("dict[str, Any]", graph.get_state(CONFIG).values)


def talk(output: Any) -> list[str]:
    return [f"{m.type}: {m.text}" for m in output["messages"]]


async def test_a_second_run_on_a_thread_starts_clean(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    graph = threaded(parts)
    await run(graph, {"query": "first", "domain": "math"}, face, thread="1")
    parts.rewarding(direct=0.95)

    output = await run(graph, {"query": "second"}, face, thread="1")

    assert (output["answer"], output["reward"], arms(output)) == ("direct", 0.95, ["direct"])
    assert [e["event"] for e in output["ledger"]] == ["answered", "judged", "decided"]
    state = state_of(graph)
    assert state["task"] == {
        "query": "second",
        "domain": None,
        "history": [],
        "from_messages": False,
    }
    assert (state["samples"], state["vector"], state["adapted"]) == ([], [], None)
    assert (state["retrieved"], state["tried"], state["spent"]["arms"]) == (False, ["direct"], 1)


async def test_a_domain_is_not_inherited_by_the_next_run(face: Face) -> None:
    parts = Parts()
    graph = threaded(parts)
    await run(graph, {"query": "first", "domain": "math"}, face, thread="1")
    await run(graph, {"query": "second"}, face, thread="1")
    assert [domain for _, domain, _ in parts.knowledge_base.searches] == ["math", None]


async def test_messages_may_follow_a_query(face: Face) -> None:
    parts = Parts().rewarding(direct=1.0)
    graph = threaded(parts)
    await run(graph, {"query": "first"}, face, thread="1")

    output = await run(graph, {"messages": [HumanMessage("second")]}, face, thread="1")

    assert parts.policy_model.requests[-1].messages[-1]["content"] == "second"
    assert talk(output) == ["human: second", "ai: direct"]


async def test_a_query_may_follow_messages(face: Face) -> None:
    parts = Parts().rewarding(direct=1.0)
    graph = threaded(parts)
    await run(graph, {"messages": [HumanMessage("first")]}, face, thread="1")

    output = await run(graph, {"query": "second"}, face, thread="1")

    prompt = [turn["content"] for turn in parts.policy_model.requests[-1].messages]
    assert prompt[1:] == ["second"]
    assert talk(output) == ["human: first", "ai: direct"]


@pytest.mark.parametrize(
    ("refused", "settings"),
    [
        pytest.param({"query": "x" * 100_001, "domain": "math"}, {}, id="a-query-too-long"),
        pytest.param(
            {"query": "a", "domain": "math"}, {"policy": "ttt"}, id="a-policy-without-its-arm"
        ),
    ],
)
async def test_a_refused_input_is_not_taken_for_the_next_question(
    face: Face, refused: Any, settings: dict[str, Any]
) -> None:
    parts = Parts()
    made = parts.parts()
    del made["trainer"]
    graph = create_rttc_graph(checkpointer=InMemorySaver(), **made)
    with pytest.raises(ConfigurationError):
        await run(graph, refused, face, thread="1", context=settings)

    await run(graph, {"messages": [HumanMessage("second")]}, face, thread="1")

    assert parts.policy_model.requests[0].messages[-1]["content"] == "second"
    assert parts.knowledge_base.searches[0][1] is None


async def test_a_conversation_reaches_the_prompt_and_gets_one_answer_a_turn(face: Face) -> None:
    parts = Parts().rewarding(rag=1.0)
    graph = threaded(parts)
    first: list[AnyMessage] = [SystemMessage("be brief"), HumanMessage("one")]
    await run(graph, {"messages": first}, face, thread="1", context={"policy": "rag", "k": 1})

    second: Any = {"messages": [HumanMessage("two")]}
    output = await run(graph, second, face, thread="1", context={"policy": "rag", "k": 1})

    assert talk(output) == ["system: be brief", "human: one", "ai: rag", "human: two", "ai: rag"]
    answer = output["messages"][-1]
    assert isinstance(answer, AIMessage)
    assert answer.name == "rttc"
    prompt = [f"{t['role']}: {t['content']}" for t in parts.policy_model.requests[-1].messages]
    assert prompt == [
        "system: be brief",
        "user: question 1",
        "assistant: answer 1",
        "user: one",
        "assistant: rag",
        "user: two",
    ]


async def test_a_query_of_its_own_gets_no_message(face: Face) -> None:
    output = await run(create_rttc_graph(**Parts().parts()), {"query": "a"}, face)
    assert not output.get("messages")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "no input", id="nothing"),
        pytest.param({"query": "  "}, "no input", id="blanks"),
        pytest.param({"messages": []}, "no input", id="an-empty-conversation"),
        pytest.param({"messages": [HumanMessage(" ")]}, "question is empty", id="a-blank-message"),
        pytest.param(
            {"messages": [HumanMessage("a"), AIMessage("b")]},
            "got 'ai' last",
            id="no-question-last",
        ),
        pytest.param({"query": "x" * 100_001}, "limit is 100000", id="too-long"),
        pytest.param(
            {"messages": [*(AIMessage("b" * 50_000) for _ in range(9)), HumanMessage("a")]},
            "earlier messages have 450000 characters, the limit is 400000",
            id="too-long-a-conversation",
        ),
    ],
)
async def test_an_input_without_a_question_is_refused(face: Face, given: Any, message: str) -> None:
    parts = Parts()
    with pytest.raises(ConfigurationError, match=message):
        await run(create_rttc_graph(**parts.parts()), given, face)
    assert parts.policy_model.requests == []


async def fork(graph: RttcGraph, decision: str, face: Face) -> Any:
    """Overrule the judge's first decision and go on from there."""
    history = list(graph.get_state_history(CONFIG))
    judged = next(s for s in reversed(history) if s.values.get("reward"))
    there = graph.update_state(judged.config, {"decision": decision}, as_node="reward_judge")
    assert graph.get_state(there).next == (decision,)
    call = cast("Any", graph)
    if face == "ainvoke":
        return await call.ainvoke(None, there)
    return await asyncio.to_thread(call.invoke, None, there)


async def test_an_overruled_decision_is_obeyed(face: Face) -> None:
    parts = Parts().rewarding(direct=0.45, rag=0.95)
    graph = threaded(parts)
    await run(graph, {"query": "a"}, face, thread="1", context=RttcSettings(tau_r=0.4))
    assert parts.knowledge_base.searches == []

    output = await fork(graph, "retrieve", face)  # with no context: the default threshold again

    assert len(parts.knowledge_base.searches) == 1
    assert arms(output) == ["direct", "rag"]


@pytest.mark.parametrize("decision", ["rag_generate", "ttt_adapt", "generate"])
async def test_a_fork_that_skips_the_retrieval_still_ends_well(face: Face, decision: str) -> None:
    graph = threaded(Parts().rewarding(direct=0.5, rag=0.95))
    await run(graph, {"query": "a"}, face, thread="1", context=RttcSettings(tau_r=0.4))
    assert (await fork(graph, decision, face))["answer"] in ("direct", "rag")


class AskingPolicyModel(ScriptedPolicyModel):
    """A policy model of a host that asks a human before it answers."""

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.texts = {"direct": interrupt("what shall I say?")}
        return await super().generate(requests, deadline=deadline)


async def test_interrupts_inside_a_part_reach_the_host(face: Face) -> None:
    parts = Parts(policy_model=AskingPolicyModel()).rewarding(hello=1.0)
    graph = threaded(parts)

    waiting = cast("Any", await run(graph, {"query": "a"}, face, thread="1"))
    assert waiting["__interrupt__"][0].value == "what shall I say?"
    output = await run(graph, cast("Any", Command(resume="hello")), face, thread="1")

    assert (output["answer"], output["reward"]) == ("hello", 1.0)
    assert [e["event"] for e in output["ledger"]] == ["answered", "judged", "decided"]


async def test_a_run_stopped_before_a_node_goes_on_with_what_it_had(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.95)
    graph = create_rttc_graph(checkpointer=InMemorySaver(), **parts.parts())
    graph.interrupt_before_nodes = ["ttt_adapt"]
    await run(graph, {"query": "a"}, face, thread="1")
    assert parts.trainer.trainings == []

    output = await run(graph, cast("Any", None), face, thread="1")

    assert (output["answer"], arms(output)) == ("ttt", ["direct", "rag", "ttt"])
