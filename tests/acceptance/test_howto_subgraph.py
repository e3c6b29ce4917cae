"""The how-to about larger agents: its code runs as it stands, and what it says of it is so."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from installations import REPOSITORY
from langchain_core.messages import HumanMessage
from scripted_parts import Parts

from rttc_graph import create_rttc_graph
from rttc_graph.installation import local

TEXT = (REPOSITORY / "docs/howto/subgraph.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def program(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run all blocks, one after the other, over a graph of scripted parts."""

    @contextmanager
    def open_scripted() -> Generator[Any]:
        yield SimpleNamespace(graph=create_rttc_graph(**parts.parts()))

    monkeypatch.setattr(local, "open_local", open_scripted)
    names: dict[str, Any] = {"__name__": "howto"}
    for block in BLOCKS:
        exec(compile(block, "subgraph.md", "exec"), names)
    return names


def shop(**rewards: float) -> Parts:
    parts = Parts().rewarding(**rewards)
    parts.knowledge_base.domains = ("shop",)
    return parts


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        pytest.param({"rag": 0.95}, "rag rag", id="accepted"),
        pytest.param({"rag": 0.6}, "Yes, it is. a person", id="a-person-answers"),
    ],
)
def test_all_code_runs_and_the_agent_goes_where_the_worth_sends_it(
    rewards: dict[str, float],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = shop(**rewards)
    names = program(parts, monkeypatch)
    over_messages, over_query, strategy, *streamed = capsys.readouterr().out.splitlines()
    assert over_messages == said
    answer, accepted, ids = over_query.split(" ", 2)
    assert (answer, accepted) == ("rag", str(rewards["rag"] > 0.8))
    assert ids.count("'") == 4
    assert [search[1] for search in parts.knowledge_base.searches] == ["shop", "shop", None, None]
    assert strategy.startswith("adaptive ")
    assert "rttc retrieve retrieved" in streamed
    assert "rttc reward_judge decided" in streamed
    assert streamed.count("rag") == 1
    assert len(BLOCKS) == 8
    assert names["state"]["messages"][0].text == "Is a helmet in the price?"


def test_without_anything_found_the_agent_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = shop(direct=0.1)
    names = program(shop(rag=0.95), monkeypatch)
    parts.knowledge_base.samples = []
    agent = names["build_agent"](create_rttc_graph(**parts.parts()))
    state = agent.invoke({"messages": [HumanMessage("q")]}, {"configurable": {"thread_id": "1"}})
    assert [m.text for m in state["messages"]] == ["q", "I cannot say. A person will write to you."]


def test_the_table_has_every_key_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    names = program(shop(rag=0.95), monkeypatch)
    table = TEXT.partition("## What comes back")[2].partition("##")[0]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    answer = names["state"]["messages"][-1]
    assert listed == answer.response_metadata.keys()
    assert answer.name == "rttc"
    source = answer.response_metadata["sources"][0]
    assert all(f"`{key}`" in table for key in source)


def test_nodes_are_retried_and_cached_and_a_trace_gets_its_feedback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = program(shop(rag=0.95), monkeypatch)
    parts = shop(rag=0.95)
    graph = names["build_patient"]({**parts.parts(), "cache": None})
    sent: list[dict[str, Any]] = []

    def create_feedback(**one: Any) -> None:
        sent.append(one)

    client = SimpleNamespace(create_feedback=create_feedback)
    names["ask_traced"](graph, client, "q")
    trace, output = names["ask_traced"](graph, client, "q")
    assert output["arm"] == "rag"
    names["rate_traced"](client, trace, right=True)
    assert len(parts.knowledge_base.searches) == 1
    keys = ["rttc_accepted", "rttc_reward"]
    assert [one["key"] for one in sent] == [*keys, *keys, "rttc_rating"]
