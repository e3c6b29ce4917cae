"""Every output says whether it can be acted on and what it rests on, and no domain is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from graph_runs import QUERY, Face, ask, events, run
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from scripted_parts import Parts, recalling, sample, trained_adapter

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph
from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.testing.memory_parts import MemoryLedgerStore

FIRST, SECOND = sample(1)["id"], sample(2)["id"]


@pytest.mark.parametrize(
    ("rewards", "arm", "accepted"),
    [
        pytest.param({"direct": 0.95}, "direct", True, id="above"),
        pytest.param({"direct": 0.9}, "direct", True, id="just-at-it"),
        pytest.param({"rag": 0.89}, "rag", False, id="below"),
        pytest.param({}, "direct", False, id="nothing-is-worth-anything"),
    ],
)
async def test_an_answer_is_accepted_from_tau_r_on(
    rewards: dict[str, float], arm: str, accepted: bool, face: Face
) -> None:
    output = await ask(Parts().rewarding(**rewards), face, tau_r=0.9)
    assert (output["arm"], output["accepted"], output["tau_r"]) == (arm, accepted, 0.9)


async def test_an_answer_that_was_not_judged_is_not_accepted() -> None:
    parts = Parts()
    parts.reward_model.error = RuntimeError("down")
    output = await ask(parts, tau_r=0)
    assert (output["reward"], output["accepted"], output["calibrated"]) == (None, False, False)


@pytest.mark.parametrize(
    ("policy", "arms", "taken"),
    [
        pytest.param("direct", {}, set[str](), id="the-plain-model-rests-on-nothing"),
        pytest.param("nearest", {FIRST: ["nearest"]}, {FIRST}, id="what-the-nearest-says"),
        pytest.param("rag", {FIRST: ["rag"], SECOND: ["rag"]}, {FIRST, SECOND}, id="in-the-prompt"),
        pytest.param("ttt", {FIRST: ["ttt"], SECOND: ["ttt"]}, {FIRST, SECOND}, id="trained-on"),
        pytest.param(
            "cascade", {FIRST: ["rag", "ttt"], SECOND: ["ttt"]}, {FIRST}, id="the-taken-are-marked"
        ),
    ],
)
async def test_sources_are_the_samples_that_answers_were_made_from(
    policy: str, arms: dict[str, list[str]], taken: set[str]
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.5, ttt=0.3)
    if policy == "cascade":  # a prompt with both samples leaves no room for an answer
        parts.policy_model.context = 17
    output = await ask(parts, policy=policy, max_new_tokens=4, tau_r=0.9)

    sources = output["sources"]
    assert {s["id"]: s["arms"] for s in sources} == arms
    assert {s["id"] for s in sources if s["taken"]} == taken
    for source in sources:
        number = 1 if source["id"] == FIRST else 2
        assert (source["question"], source["answer"]) == (f"question {number}", f"answer {number}")
        assert (source["domain"], source["similarity"]) == ("math", 0.9)
    told = next(e for e in reversed(output["ledger"]) if e["event"] == "decided")["detail"]
    assert {s["id"]: s["taken"] for s in told["sources"]} == {s["id"]: s["taken"] for s in sources}
    assert (told["accepted"], told["tau_r"], told["calibrated"]) == (False, 0.9, False)
    assert not any("question" in s or "answer" in s for s in told["sources"])


@pytest.mark.parametrize(
    ("same_query", "known"),
    [
        pytest.param(True, {FIRST, SECOND}, id="samples-and-adapter-of-one-query"),
        pytest.param(False, set[str](), id="samples-of-another"),
    ],
)
async def test_a_recalled_adapter_rests_on_the_samples_that_were_recalled_with_it(
    same_query: bool, known: set[str]
) -> None:
    parts = Parts().rewarding(ttt=0.95)
    similarity = 0.99 if same_query else 0.95
    parts.cache.recalled = recalling(
        samples=[sample(1), sample(2)], adapter="key", similarity=similarity
    )
    parts.cache.stored["key"] = trained_adapter("key")
    output = await ask(parts)
    assert output["arm"] == "ttt"
    assert {s["id"] for s in output["sources"] if s["taken"]} == known


async def test_a_run_is_stored_under_the_id_that_it_returned(face: Face) -> None:
    parts = Parts().rewarding(rag=0.95)
    first, second = await ask(parts, face), await ask(parts, face, tau_r=1)
    stored = parts.ledger_store.runs
    assert [run.run_id for run in stored] == [first["run_id"], second["run_id"]]
    assert first["run_id"] != second["run_id"]
    assert [run.accepted for run in stored] == [True, False]
    assert stored[0].answer == "rag"
    assert stored[0].sources == first["sources"]
    assert stored[0].candidate == first["candidates"][-1]


async def test_a_message_says_what_the_answer_rests_on(face: Face) -> None:
    parts = Parts().rewarding(rag=0.95)
    made = create_rttc_graph(**parts.parts())
    output = await run(made, {"messages": [HumanMessage(QUERY)]}, face)
    said = output["messages"][-1].response_metadata
    named = {"arm", "reward", "accepted", "declined", "tau_r", "calibrated", "sources", "run_id"}
    assert {*named, "finish_reason"} == said.keys()
    assert all(said[name] == output[name] for name in named)
    assert said["finish_reason"] == "stop"


async def test_a_thread_forgets_what_an_earlier_run_rested_on() -> None:
    parts = Parts().rewarding(rag=0.95, direct=0.1)
    made = create_rttc_graph(checkpointer=True, **parts.parts())
    host = _host(made)
    first = await run(host, {"messages": [HumanMessage(QUERY)]}, thread="1")
    second = await run(
        host, {"messages": [HumanMessage(QUERY)]}, thread="1", context={"policy": "direct"}
    )
    metadata = [m.response_metadata for m in second["messages"] if m.type == "ai"]
    assert [bool(one["sources"]) for one in metadata] == [True, False]
    assert metadata[0]["run_id"] != metadata[1]["run_id"]
    assert len(first["messages"]) == 2


def _host(child: Any) -> Any:
    builder = StateGraph(MessagesState, context_schema=RttcSettings)
    builder.add_node("answer", child)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=InMemorySaver())


def _asking(**more: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage(QUERY, **more)]}


@pytest.mark.parametrize(
    ("given", "context", "configurable", "searched"),
    [
        pytest.param(_asking(), {"domain": "math"}, {}, "math", id="by-context"),
        pytest.param(_asking(), RttcSettings(domain="math"), {}, "math", id="by-our-own-context"),
        pytest.param(_asking(), None, {"domain": "math"}, "math", id="by-configurable"),
        pytest.param(
            _asking(),
            {"domain": "law"},
            {"domain": "math"},
            "law",
            id="context-comes-first",
        ),
        pytest.param(
            _asking(additional_kwargs={"domain": "math"}), None, {}, "math", id="by-message"
        ),
        pytest.param(
            _asking(additional_kwargs={"rttc": {"domain": "math"}}),
            {"domain": "law"},
            {},
            "math",
            id="message-before-context",
        ),
        pytest.param(
            _asking(response_metadata={"domain": "math"}), None, {}, "math", id="by-metadata"
        ),
        pytest.param(_asking(metadata={"domain": "math"}), None, {}, "math", id="by-own-metadata"),
        pytest.param(_asking(additional_kwargs={"domain": " "}), None, {}, None, id="a-blank-one"),
        pytest.param(
            {"query": QUERY, "domain": "law"}, {"domain": "math"}, {}, "law", id="input-before-all"
        ),
    ],
)
async def test_a_domain_reaches_the_graph(
    given: Any, context: Any, configurable: dict[str, str], searched: str | None, face: Face
) -> None:
    parts = Parts().rewarding(rag=0.95)
    parts.knowledge_base.domains = ("math", "law")
    made: Any = create_rttc_graph(**parts.parts())
    if "messages" in given:
        made = _host(made)
        configurable = {**configurable, "thread_id": "1"}
    config = {"configurable": configurable}
    if face == "invoke":
        await asyncio.to_thread(made.invoke, given, config, context=context)
    else:
        await made.ainvoke(given, config, context=context)
    assert [domain for _, domain, _ in parts.knowledge_base.searches] == [searched]
    assert parts.ledger_store.runs[0].domain == searched


async def test_settings_come_by_configurable_too() -> None:
    parts = Parts().rewarding(direct=0.6, rag=0.7)
    made = parts.parts()
    made["settings"] = RttcSettings(k=1, tau_r=0.9)
    graph: Any = create_rttc_graph(**made)
    config: Any = {"configurable": {"policy": "rag", "tau_r": 0.65, "user": "somebody"}}
    output = await graph.ainvoke({"query": QUERY}, config, context={"tau_r": 0.71})
    assert (output["arm"], output["tau_r"], output["accepted"]) == ("rag", 0.71, False)
    assert parts.knowledge_base.searches[0][0] == 1  # of the graph's own settings
    with pytest.raises(ConfigurationError, match=r"tau_r=2"):
        await graph.ainvoke({"query": QUERY}, {"configurable": {"tau_r": 2}})


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"rttc": {"tenant": "other"}}, id="a-tenant"),
        pytest.param({"rttc": {"domain": "math", "tau_r": 0}}, id="a-setting"),
        pytest.param({"rttc": "math"}, id="no-mapping"),
        pytest.param({"domain": 7}, id="no-text"),
    ],
)
async def test_a_message_cannot_choose_more_than_a_domain(more: dict[str, Any]) -> None:
    graph: Any = create_rttc_graph(**Parts().parts())
    with pytest.raises(ConfigurationError, match=r"a message (asks|names)"):
        await graph.ainvoke(_asking(additional_kwargs=more))


@pytest.mark.parametrize("policy", ["cascade", "direct", "rag"])
async def test_a_domain_without_samples_is_an_error_and_not_an_answer(policy: str) -> None:
    parts = Parts().rewarding(direct=0.95)
    parts.knowledge_base.domains = ("voltride", "banking")
    with pytest.raises(ConfigurationError) as raised:
        await ask(parts, domain="voltrid", policy=policy)
    words = "domain 'voltrid' of tenant 'default' has no samples: did you mean 'voltride'? Known"
    assert words in str(raised.value)
    assert not parts.policy_model.requests
    assert not parts.ledger_store.runs  # so statistics do not list it


async def test_a_run_that_cannot_wait_for_a_person_is_refused_before_it_answers(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1)
    context = {"ask_before_training": True}
    with pytest.raises(ConfigurationError, match="compile the graph, or the host around it, with"):
        await run(create_rttc_graph(**parts.parts()), {"query": QUERY}, face, context=context)
    assert not parts.policy_model.requests
    given: Any = {"messages": [HumanMessage(QUERY)]}
    waiting = await run(
        _host(create_rttc_graph(**parts.parts())), given, face, context=context, thread="1"
    )
    assert waiting["__interrupt__"]


async def test_a_known_domain_is_looked_up_once_a_minute() -> None:
    parts = Parts().rewarding(direct=0.95)
    graph = create_rttc_graph(**parts.parts())
    for _ in range(3):
        await run(graph, {"query": QUERY, "domain": "math"})
    assert parts.knowledge_base.asked_for_size == 1


async def test_a_knowledge_base_that_is_down_costs_the_check_and_not_the_answer() -> None:
    parts = Parts().rewarding(direct=0.95)
    parts.knowledge_base.error = KnowledgeBaseError("down")
    output = await ask(parts, domain="math")
    assert (output["answer"], output["accepted"]) == ("direct", True)
    assert events(output, of="prepare") == ["failed"]


async def test_a_graph_without_a_knowledge_base_notes_a_domain_that_finds_nothing() -> None:
    parts = Parts().rewarding(direct=0.95)
    graph = create_rttc_graph(policy_model=parts.policy_model, reward_model=parts.reward_model)
    output = await run(graph, {"query": QUERY, "domain": "math"})
    assert events(output, of="prepare") == ["noted"]
    assert output["ledger"][0]["detail"]["domain"] == "math"


async def test_a_ledger_store_in_memory_has_what_the_answer_rests_on() -> None:
    store, made = MemoryLedgerStore(), Parts().rewarding(rag=0.95).parts()
    made["ledger_store"] = store
    output = await ask(made)
    assert store.runs[0].sources == output["sources"]
