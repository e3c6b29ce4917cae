"""An agent that answers from your solved questions, and hands over what it is not sure of.

`langgraph dev` serves `agent`. Change `hand_over`, the settings in `.env`, or the graph around it.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from rttc_graph import RttcSettings
from rttc_graph.graph import RttcGraph
from rttc_graph.installation import local


def what_next(state: MessagesState) -> str:
    """Go on with an answer that can be acted on, and hand over any other."""
    return END if state["messages"][-1].response_metadata["accepted"] else "hand_over"


def hand_over(state: MessagesState) -> dict[str, Any]:
    """Put a refusal in the place of the doubtful answer; open a ticket here instead."""
    doubtful = state["messages"][-1]
    said = "I am not sure enough of that. A person will get back to you."
    return {"messages": [AIMessage(said, id=doubtful.id)]}


def build(rttc: RttcGraph) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the agent over a graph of rttc; it has no checkpointer, the server brings one."""
    builder = StateGraph(MessagesState, context_schema=RttcSettings)
    builder.add_node("rttc", rttc)
    builder.add_node("hand_over", hand_over)
    builder.add_edge(START, "rttc")
    builder.add_conditional_edges("rttc", what_next, [END, "hand_over"])
    builder.add_edge("hand_over", END)
    return builder.compile(name="agent")


_open = ExitStack()
atexit.register(_open.close)
agent = build(_open.enter_context(local.open_local()).graph)
