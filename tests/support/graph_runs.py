"""Runs a graph of scripted parts under either face, and reads what came out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from scripted_parts import Parts

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.graph import RttcGraph, RttcParts
from rttc_graph.state import RttcInput

Face = Literal["invoke", "ainvoke"]
Output = dict[str, Any]
"""An `RttcOutput` in which every key may be read without asking first."""

QUERY = "what is two and two"
TAU_R = 0.9
"""What `ask` calls good enough, so that no test of a path hangs on the default."""


async def run(
    graph: RttcGraph,
    given: RttcInput,
    face: Face = "ainvoke",
    *,
    context: object = None,
    thread: str | None = None,
) -> Output:
    """Run the graph; the sync face runs in a thread, as in a host's web server."""
    config: RunnableConfig = {"configurable": {"thread_id": thread}} if thread else {}
    call = cast("Any", graph)  # hosts may give any context
    if face == "ainvoke":
        return cast("Output", await call.ainvoke(given, config, context=context))
    return cast("Output", await asyncio.to_thread(call.invoke, given, config, context=context))


async def ask(
    parts: Parts | RttcParts,
    face: Face = "ainvoke",
    *,
    domain: str | None = None,
    settings: RttcSettings | None = None,
    **more: Any,
) -> Output:
    """Ask a graph made of `parts` one question, with `settings` or with what `more` says."""
    made = parts.parts() if isinstance(parts, Parts) else parts
    said: dict[str, Any] = {"tau_r": TAU_R, **more}
    context = settings or RttcSettings(**said)
    given: RttcInput = {"query": QUERY, "domain": domain}
    return await run(create_rttc_graph(**made), given, face, context=context)


async def ask_in_pieces(parts: RttcParts, **more: Any) -> Output:
    """Ask as `ask` does, but end after each node; a graph made anew goes on from the checkpoint."""
    saver, given = InMemorySaver(), cast("RttcInput | None", {"query": QUERY})
    said: dict[str, Any] = {"tau_r": TAU_R, **more}
    context = RttcSettings(**said)
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    while True:
        graph = cast("Any", create_rttc_graph(**parts, checkpointer=saver))
        graph.interrupt_after_nodes = "*"
        output = await graph.ainvoke(given, config, context=context)
        if not (await graph.aget_state(config)).next:
            return cast("Output", output)
        given = None


def arms(output: Output) -> list[str]:
    """Return the arms that answered, in order."""
    return [c["arm"] for c in output["candidates"]]


def events(output: Output, *, of: str | None = None) -> list[str]:
    """Return the ledger's events in order, of one node or of all."""
    return [e["event"] for e in output["ledger"] if of in (None, e["node"])]


def failures(ledger: object) -> list[str]:
    """Return `node: error` for each entry of a ledger that reports a failure."""
    entries = cast("list[Mapping[str, Any]]", ledger)
    return [f"{e['node']}: {e['detail']['error']}" for e in entries if e["event"] == "failed"]


def nodes_of(graph: RttcGraph) -> set[str]:
    """Return the names of a graph's nodes."""
    return set(graph.get_graph().nodes) - {"__start__", "__end__"}


async def until(condition: Callable[[], object]) -> None:
    """Wait until something that happens on another thread or task has happened."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another thread makes it true, without an event
            await asyncio.sleep(0.001)
