"""What the graph itself costs: CPU time of a run whose models and stores take none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.paired_runs import Case
from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.protocols import Generation, GenerationRequest, NewSample
from rttc_graph.state import Candidate, ChatTurn
from rttc_graph.testing import MemoryKnowledgeBase

ASKS = 40
"""Runs of one measurement."""

MOST_MS = 5.0


class Canned:
    """A policy model, a reward model and an embedder that know what to say.

    All are coroutines: a thread for what blocks is the model's own time, not the graph's.
    """

    name = "canned"

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return a number that costs nothing."""
        return len(messages)

    async def context_tokens(self) -> int | None:
        """Return that there is no limit."""
        return None

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        """Answer at once."""
        del deadline
        return [
            Generation(
                text="an answer",
                prompt_tokens=1,
                completion_tokens=1,
                mean_logprob=-0.1,
                finish_reason="stop",
            )
            for _ in requests
        ]

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the same reward for every answer."""
        del query
        return [0.5] * len(candidates)

    async def fingerprint(self) -> str:
        """Return a constant."""
        return "canned"

    async def dimension(self) -> int:
        """Return a constant."""
        return 2

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the same vector for every text."""
        return [[1.0, 0.0] for _ in texts]


class Steps(TypedDict, total=False):
    """State of the bare graph."""

    query: str
    answer: str


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield a run that ends with the direct answer, and one that goes on to RAG.

    Each against a bare LangGraph with as many nodes of nothing.
    """
    del setup
    canned, knowledge_base = Canned(), MemoryKnowledgeBase()
    sample = NewSample(question="q", answer="a", domain="d")
    asyncio.run(knowledge_base.ingest([sample], [[1.0, 0.0]], tenant="default"))
    graph = create_rttc_graph(
        policy_model=canned,
        reward_model=canned,
        embedder=canned,
        knowledge_base=knowledge_base,
    )
    peer = f"langgraph {version('langgraph')} with as many empty nodes"
    yield [
        Case(
            name=f"one ask, {route}",
            ours=_cpu_ms(graph, RttcSettings(tau_r=tau_r, arms=("direct", "rag"))),
            peer=_cpu_ms(_bare(steps), None),
            peer_name=peer,
            unit="ms",
            most_ours=MOST_MS,
        )
        for route, tau_r, steps in (("direct", 0.0, 3), ("direct, then rag", 1.0, 6))
    ]


def _bare(steps: int) -> Any:
    async def nothing(state: Steps) -> Steps:
        return {"answer": "an answer"}

    builder = StateGraph(Steps)
    before = START
    for number in range(steps):
        name = f"step_{number}"
        builder.add_node(name, nothing)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder.compile()


def _cpu_ms(graph: Any, context: RttcSettings | None) -> Callable[[], float]:
    async def ask() -> None:
        for _ in range(ASKS):
            await graph.ainvoke({"query": "q"}, context=context)

    def milliseconds() -> float:
        began = time.process_time()
        asyncio.run(ask())
        return 1000 * (time.process_time() - began) / ASKS

    return milliseconds
