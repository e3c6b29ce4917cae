"""The graph as a LangChain tool, for whatever calls tools. Run it with: python examples/as_tool.py.

A tool call carries the question alone; the limits of a run are the caller's to set, as settings of
the graph that becomes the tool.
"""

from __future__ import annotations

import asyncio

from langchain_core.tools import BaseTool

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.graph import RttcGraph
from rttc_graph.installation.local import open_local


def solver(rttc: RttcGraph) -> BaseTool:
    """Return the graph as a tool with one argument; it returns the graph's whole output."""
    return rttc.as_tool(
        name="solve",
        description="Answers one complete question with the help of similar solved ones.",
        arg_types={"query": str},
    )


async def main(rttc: RttcGraph) -> None:
    tool = solver(rttc)
    result = await tool.ainvoke({"query": "How do I get a new card?"})
    print(f"{tool.name}{sorted(tool.args)}: {result['answer']}")
    print(f"({result['arm']}, reward {result['reward']})")


if __name__ == "__main__":
    with open_local() as opened:
        limits = RttcSettings(budget_seconds=60, max_new_tokens=64)
        asyncio.run(main(create_rttc_graph(**{**opened.parts, "settings": limits})))
