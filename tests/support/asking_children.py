"""A process that asks all the time, while a test does something to its database.

Not among the children that a server process imports beforehand: those would wait for LangGraph too.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from graph_runs import failures
from postgres_children import Child, Pipe
from postgres_fixtures import NumberEmbedder
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.graph import RttcGraph
from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.samples.ingest import ingest
from rttc_graph.state import RttcInput
from rttc_graph.testing import new_sample

Asked = tuple[float, str, list[str]]
"""Seconds of an ask, its answer, and the failures that it survived."""


def fill(dsn: str, questions: int) -> None:
    """Store a solved sample for each of the first questions."""

    async def store() -> None:
        database, embedder = Database(dsn), NumberEmbedder()
        samples = [new_sample(number) for number in range(questions)]
        await ingest(samples, PostgresKnowledgeBase(database, embedder), embedder)
        await asyncio.to_thread(database.close)

    asyncio.run(store())


SETTINGS = RttcSettings(policy="ttt", k=2, evidence_similarity=0.0)


def question(number: int) -> RttcInput:
    """Return the input of a run."""
    return {"query": f"question {number}", "domain": "math"}


def graph_over(database: Database) -> RttcGraph:
    """Return a graph that keeps in a database all that it keeps, with scripted models."""
    embedder = NumberEmbedder()
    parts = Parts().rewarding(ttt=0.8).parts()
    parts["embedder"] = embedder
    parts["knowledge_base"] = PostgresKnowledgeBase(database, embedder)
    parts["cache"] = PostgresQueryStateCache(database)
    parts["ledger_store"] = PostgresLedgerStore(database)
    return create_rttc_graph(**parts)


def ask_until_told(pipe: Pipe, dsn: str) -> None:
    """Ask one question after the other through a graph over a database, as a server does.

    Whatever it is sent, it answers with what became of its asks so far: seconds, answer and
    failures of each. `end` ends it.
    """

    async def run() -> None:
        database = Database(dsn)
        graph, asked = graph_over(database), list[Asked]()
        for number in itertools.count():
            began = time.monotonic()
            # Each question twice: the second time its samples and its adapter are recalled.
            found = await graph.ainvoke(question(number // 2 % 20), context=SETTINGS)
            taken = time.monotonic() - began
            asked.append((taken, found["answer"], failures(found["ledger"])))
            if pipe.poll():
                word = pipe.recv()
                pipe.send(asked)
                if word == "end":
                    break
        database.close()

    asyncio.run(run())


def asked_by(child: Child, *, more: int) -> list[Asked]:
    """Return all asks of a child that runs `ask_until_told`, once it has made so many more."""
    child.tell()
    wanted = len(child.said()) + more
    while True:
        child.tell()
        asked: list[Asked] = child.said()
        if len(asked) >= wanted:
            return asked


def told_to_end(child: Child) -> list[Asked]:
    """End a child that runs `ask_until_told`, and return all its asks."""
    child.tell("end")
    asked: list[Asked] = child.said()
    assert child.wait() == 0
    return asked
