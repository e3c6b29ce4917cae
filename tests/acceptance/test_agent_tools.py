"""`rttc mcp`: what an agent sees of the tools, by the protocol's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted_parts import Parts, ScriptedEmbedder

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.protocols import RatedRun, Rating
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.agent_tools import AgentTools, mcp_server
from rttc_graph.testing import MemoryKnowledgeBase

mcp: Any = pytest.importorskip("mcp")


class Ratings:
    """Takes ratings of any run and keeps the last one with the tenant."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Rating]] = []

    async def rate(self, rating: Rating, *, tenant: str) -> RatedRun:
        self.taken.append((tenant, rating))
        return RatedRun(rating=rating, query="q", domain="shop", answered="rag")


def tools(ratings: Any, **rewards: float) -> AgentTools:
    embedder = ScriptedEmbedder()
    knowledge_base = MemoryKnowledgeBase()
    return AgentTools(
        graph=create_rttc_graph(**Parts().rewarding(**rewards).parts()),
        knowledge_base=knowledge_base,
        embedder=embedder,
        corrections=Corrections(ratings=ratings, knowledge_base=knowledge_base, embedder=embedder),
        settings=RttcSettings(tau_r=0.8, tenant="acme"),
    )


async def called(client: Any, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)


async def test_an_agent_asks_rates_ingests_and_searches() -> None:
    ratings = Ratings()
    async with mcp.Client(mcp_server(tools(ratings, rag=0.95))) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed.keys() == {"ask", "search", "ingest", "rate"}
        assert listed["ask"].input_schema["required"] == ["question"]
        assert "accepted" in (listed["ask"].description or "")

        answer = await called(client, "ask", question="how much is a helmet")
        assert (answer["answer"], answer["arm"], answer["accepted"]) == ("rag", "rag", True)
        assert answer["sources"]
        assert all(source["taken"] for source in answer["sources"])
        strict = await called(client, "ask", question="how much is a helmet", tau_r=1.0)
        assert (strict["accepted"], strict["tau_r"]) == (False, 1.0)

        rated = await called(
            client, "rate", run_id=answer["run_id"], right=False, answer="35 euros"
        )
        assert rated["correction"] == "pending"  # an agent's answer is a sample after approval
        ((tenant, rating),) = ratings.taken
        assert (tenant, rating.is_right, rating.answer) == ("acme", False, "35 euros")

        stored = await called(client, "ingest", question="q 1", answer="a", domain="shop", id="1")
        assert stored == {"stored": 1, "updated": 0, "already": 0}
        found = await called(client, "search", text="q 1", domain="shop")
        assert [sample["answer"] for sample in found["samples"]] == ["a"]


async def test_what_is_wrong_is_said_and_the_server_goes_on() -> None:
    async with mcp.Client(mcp_server(tools(Ratings(), rag=0.95))) as client:
        await called(client, "ingest", question="q 1", answer="a", domain="shop")
        for tool, arguments, words in [
            ("search", {"text": "q", "domain": "shpo"}, "did you mean 'shop'"),
            ("search", {"text": "q", "k": 0}, "must be between 1 and 64"),
            ("ask", {"question": "q", "tau_r": 7}, "tau_r"),
        ]:
            result = await client.call_tool(tool, arguments)
            assert result.is_error
            assert words in result.content[0].text
        assert (await called(client, "search", text="q 1"))["samples"]
