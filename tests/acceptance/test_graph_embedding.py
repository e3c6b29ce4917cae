"""The graph as a part of a host: subgraph, wrapper, foreign contexts, streams, plain data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Required, cast

import pytest
from graph_runs import QUERY, Face, arms, run
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel
from scripted_parts import Parts
from typing_extensions import TypedDict

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph
from rttc_graph.graph import RttcGraph

ALL_ARMS = {"direct": 0.1, "rag": 0.2, "ttt": 0.95}


class HostState(TypedDict, total=False):
    """A chat agent that shares some of our keys and has others of its own."""

    messages: Required[Annotated[list[AnyMessage], add_messages]]
    answer: str
    reward: float | None
    step: int


@dataclass
class HostContext:
    """A host's context: one name of ours, and one of its own."""

    user_id: str
    tau_r: float = 0.5


class HostModel(BaseModel):
    user_id: str = "u"
    tau_r: float = 0.5


def greet(state: HostState) -> Any:
    del state
    return {"step": 1}


def host_around(
    child: RttcGraph | Callable[[HostState], Any], context: type[Any] | None = None
) -> Any:
    builder = StateGraph(HostState, context_schema=context)
    builder.add_node("greet", greet)
    builder.add_node("answer", cast("Any", child))
    builder.add_edge(START, "greet")
    builder.add_edge("greet", "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=InMemorySaver())


async def test_as_a_node_of_a_chat_agent_it_answers_the_last_message(face: Face) -> None:
    parts = Parts().rewarding(direct=0.95, rag=0.95)  # scripted: a prompt with a history is rag
    host = host_around(create_rttc_graph(**parts.parts()))

    first = await run(host, {"messages": [HumanMessage("one")]}, face, thread="1")
    second = await run(host, {"messages": [HumanMessage("two")]}, face, thread="1")

    assert (first["answer"], first["reward"], first["step"]) == ("direct", 0.95, 1)
    said = [(m.type, m.text) for m in second["messages"]]
    assert said == [("human", "one"), ("ai", "direct"), ("human", "two"), ("ai", "rag")]
    assert len({m.id for m in second["messages"]}) == 4
    prompt = [turn["content"] for turn in parts.policy_model.requests[1].messages]
    assert prompt[1:] == ["one", "direct", "two"]


@pytest.mark.parametrize(
    ("schema", "context"),
    [
        pytest.param(HostContext, HostContext(user_id="u"), id="a-dataclass"),
        pytest.param(HostModel, HostModel(), id="a-pydantic-model"),
        pytest.param(None, {"user_id": "u", "tau_r": 0.5}, id="a-dict"),
    ],
)
async def test_a_hosts_own_context_type_goes_down(
    face: Face, schema: type[Any] | None, context: object
) -> None:
    parts = Parts().rewarding(direct=0.6)
    host = host_around(create_rttc_graph(**parts.parts()), schema)

    output = await run(host, {"messages": [HumanMessage("one")]}, face, thread="1", context=context)

    assert output["reward"] == 0.6
    assert parts.knowledge_base.searches == []  # tau_r of the host, not our default


async def test_a_wrapper_may_give_settings_of_its_own(face: Face) -> None:
    parts = Parts().rewarding(direct=0.6, rag=0.7)
    graph = create_rttc_graph(**parts.parts())

    def ask_rttc(state: HostState) -> Any:
        given = cast("Any", {"query": state["messages"][-1].text})
        return {"answer": graph.invoke(given, context=RttcSettings(policy="rag"))["answer"]}

    async def ask_rttc_async(state: HostState) -> Any:
        given = cast("Any", {"query": state["messages"][-1].text})
        output = await graph.ainvoke(given, context=RttcSettings(policy="rag"))
        return {"answer": output["answer"]}

    wrapper = ask_rttc if face == "invoke" else ask_rttc_async
    host = host_around(wrapper, HostContext)
    given: Any = {"messages": [HumanMessage("one")]}

    output = await run(host, given, face, thread="1", context=HostContext("u"))

    assert output["answer"] == "rag"
    assert len(output["messages"]) == 1


async def test_settings_of_the_graph_hold_where_the_context_says_nothing(face: Face) -> None:
    parts = Parts().rewarding(**ALL_ARMS)
    made = parts.parts()
    made["settings"] = RttcSettings(policy="rag", k=1)
    graph = create_rttc_graph(**made)

    for context in (None, {"tau_r": 0.1}, HostContext("u"), RttcSettings(tau_r=0.1)):
        assert arms(await run(graph, {"query": QUERY}, face, context=context)) == ["rag"]
    assert {k for k, _, _ in parts.knowledge_base.searches} == {1}


@pytest.mark.parametrize(
    "context", [{"tau_r": 1.5}, HostContext("u", tau_r=1.5)], ids=["a-dict", "a-dataclass"]
)
async def test_a_context_out_of_bounds_is_refused_by_name(face: Face, context: Any) -> None:
    parts = Parts()
    with pytest.raises(ConfigurationError, match=r"tau_r=1\.5"):
        await run(create_rttc_graph(**parts.parts()), {"query": QUERY}, face, context=context)
    assert parts.policy_model.requests == []


async def streamed(
    graph: Any, given: Any, face: Face, **more: Any
) -> tuple[list[dict[str, Any]], Any]:
    """Return the custom events and the last state of a streamed run."""
    modes = ["custom", "values"]

    def collect_sync() -> list[Any]:
        return list(graph.stream(given, stream_mode=modes, **more))

    if face == "invoke":
        parts = await asyncio.to_thread(collect_sync)
    else:
        parts = [part async for part in graph.astream(given, stream_mode=modes, **more)]
    custom = [part[-1] for part in parts if part[-2] == "custom"]
    return custom, next(part[-1] for part in reversed(parts) if part[-2] == "values")


async def test_the_custom_stream_has_training_steps_and_the_whole_ledger(face: Face) -> None:
    parts = Parts().rewarding(**ALL_ARMS)
    parts.policy_model.context = 8 + 4 + 10  # words of the prompt, of one sample, of the answer
    graph = create_rttc_graph(**parts.parts())

    custom, output = await streamed(
        graph, {"query": QUERY}, face, context=RttcSettings(max_new_tokens=10)
    )

    assert [e for e in custom if e["event"] == "ttt_step"] == [
        {"event": "ttt_step", "step": 1, "steps": 2, "loss": 1.0},
        {"event": "ttt_step", "step": 2, "steps": 2, "loss": 0.5},
    ]
    entries = [e["entry"] for e in custom if e["event"] == "ledger"]
    assert entries == output["ledger"]
    assert "shortened" in [entry["event"] for entry in entries]


async def test_a_host_sees_the_events_of_the_subgraph(face: Face) -> None:
    host = host_around(create_rttc_graph(**Parts().rewarding(**ALL_ARMS).parts()))
    given = {"messages": [HumanMessage("one")]}
    config = {"configurable": {"thread_id": "1"}}

    custom, output = await streamed(host, given, face, config=config, subgraphs=True)

    assert output["answer"] == "ttt"
    assert len([e for e in custom if e["event"] == "ttt_step"]) == 2


async def test_output_and_state_are_plain_data(face: Face) -> None:
    parts = Parts().rewarding(**ALL_ARMS)
    graph = create_rttc_graph(checkpointer=InMemorySaver(), **parts.parts())

    output = await run(graph, {"query": QUERY, "domain": "math"}, face, thread="1")

    state = cast("dict[str, Any]", graph.get_state({"configurable": {"thread_id": "1"}}).values)
    for values in (output, state):
        plain = {key: value for key, value in values.items() if key != "messages"}
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(output) - {"messages"} == {
        "answer",
        "arm",
        "reward",
        "accepted",
        "declined",
        "tau_r",
        "calibrated",
        "sources",
        "run_id",
        "candidates",
        "ledger",
        "cache",
        "seconds",
    }


def test_the_schemas_name_what_goes_in_and_out() -> None:
    graph = create_rttc_graph(**Parts().parts())
    assert graph.get_input_jsonschema()["properties"].keys() == {"query", "domain", "messages"}
    out = graph.get_output_jsonschema()["properties"].keys()
    assert {"answer", "arm", "reward", "candidates", "ledger", "cache", "seconds"} <= out
    assert "vector" not in out


def test_a_graph_has_a_name_and_no_checkpointer_of_its_own() -> None:
    graph = create_rttc_graph(**Parts().parts())
    assert (graph.name, graph.checkpointer) == ("rttc", None)
    assert create_rttc_graph(**Parts().parts(), name="helper").name == "helper"
