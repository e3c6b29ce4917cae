"""What hosts of LangGraph and LangSmith are used to: early answers, policies of nodes, traces."""

from __future__ import annotations

import inspect
from typing import Any, cast
from uuid import uuid4

import pytest
from graph_runs import QUERY, TAU_R, run
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.cache.memory import InMemoryCache
from langgraph.types import CachePolicy, RetryPolicy
from langsmith import Client
from scripted_parts import Parts

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph
from rttc_graph.integrations.langchain.langsmith_feedback import rating_feedback, run_feedback
from rttc_graph.nodes.generate import Generate
from rttc_graph.state import RttcState

REWARDS = {"direct": 0.1, "rag": 0.2, "ttt": 0.95}


async def streamed(**settings: Any) -> list[tuple[str, Any]]:
    graph: Any = create_rttc_graph(**Parts().rewarding(**REWARDS).parts())
    given = {"messages": [HumanMessage(QUERY)]}
    context = RttcSettings(**settings)
    modes = ["custom", "messages"]
    return [part async for part in graph.astream(given, context=context, stream_mode=modes)]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"arms": "direct,rag,ttt"}, [("direct", 0), ("rag", 1), ("ttt", 2)]),
        ({"policy": "majority", "search_n": 3}, [("majority", n) for n in range(3)]),
    ],
)
async def test_candidates_are_streamed_before_they_are_judged(
    settings: dict[str, Any], wanted: list[tuple[str, int]]
) -> None:
    parts = await streamed(**settings, stream_candidates=True)

    early = [e for mode, e in parts if mode == "custom" and e["event"] == "candidate"]
    assert [(e["arm"], e["number"]) for e in early] == wanted
    messages = [e[0] for mode, e in parts if mode == "messages"]
    assert [m.text for m in messages[:-1]] == [e["answer"] for e in early]
    assert [m.name for m in messages] == ["rttc_candidate"] * len(early) + ["rttc"]
    assert len({m.id for m in messages}) == len(messages)
    custom = [e for _, e in _custom(parts)]
    events = [e["entry"]["event"] if e["event"] == "ledger" else e["event"] for e in custom]
    assert events.index("candidate") < events.index("judged" if "judged" in events else "panel")


async def test_no_candidate_is_streamed_unless_it_is_asked_for() -> None:
    parts = await streamed()
    assert "candidate" not in {e["event"] for _, e in _custom(parts)}
    assert len([1 for mode, _ in parts if mode == "messages"]) == 1


def _custom(parts: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [part for part in parts if part[0] == "custom"]


async def test_a_host_s_retry_policy_holds_for_the_nodes_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    answer = Generate.__call__

    async def shaky(self: Generate, state: RttcState, scope: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("once")
        return await answer(self, state, scope)

    monkeypatch.setattr(Generate, "__call__", shaky)
    policy = RetryPolicy(initial_interval=0.001)
    parts = Parts().rewarding(direct=0.95).parts()
    settings = RttcSettings(policy="direct")
    for given in ({"generate": policy}, policy):
        calls.clear()
        output = await run(
            create_rttc_graph(**parts, retry_policy=given), {"query": QUERY}, context=settings
        )
        assert (output["arm"], len(calls)) == ("direct", 2)
    calls.clear()
    with pytest.raises(ConnectionError):
        await run(
            create_rttc_graph(**parts, retry_policy={"retrieve": policy}),
            {"query": QUERY},
            context=settings,
        )


async def test_a_host_s_cache_policy_keeps_what_a_node_returned() -> None:
    parts = Parts().rewarding(**REWARDS)
    made = parts.parts()
    made["cache"] = None  # the query-state cache, which would recall the samples too

    def key(state: RttcState) -> str:
        return state["task"]["query"]

    graph = create_rttc_graph(
        **made,
        cache_policy={"retrieve": CachePolicy(key_func=key)},
        node_cache=InMemoryCache(),
    )
    first = await run(graph, {"query": QUERY})
    second = await run(graph, {"query": QUERY})
    assert parts.embedder.texts == [QUERY]
    assert [c["answer"] for c in first["candidates"]] == [c["answer"] for c in second["candidates"]]


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"cache_policy": {"prepare": CachePolicy()}}, "prepare gives each run its id"),
        ({"cache_policy": {"reward_judge": CachePolicy()}}, "reward_judge closes it"),
        ({"cache_policy": {"retrive": CachePolicy()}}, "did you mean 'retrieve'"),
        ({"retry_policy": {"generat": RetryPolicy()}}, "did you mean 'generate'"),
    ],
)
def test_policies_for_other_nodes_are_refused(policies: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        create_rttc_graph(**Parts().parts(), **policies)


class RecordingClient(Client):
    """A client of LangSmith's that sends nothing."""

    def __init__(self) -> None:
        super().__init__(api_url="http://localhost:9", api_key="none", auto_batch_tracing=False)
        self.created: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, dict[str, Any]] = {}

    def create_run(self, *args: Any, **kwargs: Any) -> None:
        del args
        self.created[str(kwargs["id"])] = kwargs

    def update_run(self, run_id: Any, *args: Any, **kwargs: Any) -> None:
        del args
        self.ended[str(run_id)] = kwargs


async def test_a_traced_run_ends_with_what_came_of_it() -> None:
    client, trace = RecordingClient(), uuid4()
    config = cast(
        "RunnableConfig", {"callbacks": [LangChainTracer(client=client)], "run_id": trace}
    )
    graph = create_rttc_graph(**Parts().rewarding(**REWARDS).parts())

    output = await graph.ainvoke({"query": QUERY}, config, context=RttcSettings(tau_r=TAU_R))

    told = client.ended[str(trace)]["extra"]["metadata"]
    ours = {name: value for name, value in told.items() if name.startswith("rttc_")}
    best = next(c for c in output["candidates"] if c["arm"] == "ttt")
    assert ours == {
        "rttc_run_id": output["run_id"],
        "rttc_policy": "cascade",
        "rttc_arm": "ttt",
        "rttc_accepted": True,
        "rttc_reward": 0.95,
        "rttc_tau_r": TAU_R,
        "rttc_adapter": best["adapter"],
        "rttc_tokens": ours["rttc_tokens"],
    }
    assert ours["rttc_tokens"] > 0


def test_feedback_is_in_the_form_that_langsmith_s_client_takes() -> None:
    sent: list[dict[str, Any]] = []
    takes = inspect.signature(cast("Any", Client.create_feedback))

    def create_feedback(**given: Any) -> None:
        takes.bind(None, **given)
        sent.append(given)

    trace = uuid4()
    output = {"accepted": True, "reward": 0.7, "arm": "rag", "tau_r": 0.5}
    for one in run_feedback(trace, output):
        create_feedback(**one)
    create_feedback(**rating_feedback(trace, right=False, correction="35 euros"))

    assert [(f["run_id"], f["key"], f["score"]) for f in sent] == [
        (str(trace), "rttc_accepted", 1.0),
        (str(trace), "rttc_reward", 0.7),
        (str(trace), "rttc_rating", 0.0),
    ]
    assert sent[-1]["comment"] == "35 euros"
    assert len(run_feedback(trace, {**output, "reward": None})) == 1
