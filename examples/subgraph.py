"""A host agent with a state of its own asks RTTC in one of its nodes.

The host translates its ticket into a question and the result back; the run's settings, its budget
among them, are the host's to choose. Run it with: python examples/subgraph.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from rttc_graph import RttcSettings
from rttc_graph.graph import RttcGraph
from rttc_graph.installation.local import open_local


class Ticket(TypedDict, total=False):
    """The host's state: no key of it is known to RTTC."""

    text: str
    urgent: bool
    reply: str
    explanation: str


def build_host(rttc: RttcGraph) -> Any:
    """Return the host agent with RTTC behind its node `reply`."""

    async def reply(ticket: Ticket) -> Ticket:
        settings = RttcSettings(
            policy="direct" if ticket["urgent"] else "cascade", budget_seconds=60
        )
        result = await rttc.ainvoke({"query": ticket["text"]}, context=settings)
        arms = ", ".join(candidate["arm"] for candidate in result["candidates"])
        return {"reply": result["answer"], "explanation": f"{result['arm']} of {arms}"}

    def triage(ticket: Ticket) -> Ticket:
        return {"urgent": "urgent" in ticket["text"].lower()}

    host = StateGraph(Ticket)
    host.add_node("triage", triage)
    host.add_node("reply", reply)
    host.add_edge(START, "triage")
    host.add_edge("triage", "reply")
    host.add_edge("reply", END)
    return host.compile()


async def main(rttc: RttcGraph) -> None:
    host = build_host(rttc)
    for text in ("Urgent: what is the capital of Italy?", "How do I get a new card?"):
        done = await host.ainvoke({"text": text})
        print(f"{text}\n  {done['reply']}\n  ({done['explanation']})")


if __name__ == "__main__":
    with open_local() as opened:
        asyncio.run(main(opened.graph))
