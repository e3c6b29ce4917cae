"""The graphs that `langgraph.json` exports: local, configured by environment and `rttc.toml`.

They are made at import, as the LangGraph server wants it, but nothing is opened before the first
run. They carry no checkpointer, since the server brings its own.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from rttc_graph.graph import RttcGraph
from rttc_graph.installation.local import open_local
from rttc_graph.settings import RttcSettings


def chat_of(rttc: RttcGraph) -> CompiledStateGraph[Any, RttcSettings, Any, Any]:
    """Return the graph as a conversation, which is what Studio's chat mode asks for.

    Each turn is one run: the last human message is the question, those before it its history.
    """
    builder = StateGraph(MessagesState, context_schema=RttcSettings)
    builder.add_node("rttc", rttc)
    builder.add_edge(START, "rttc")
    builder.add_edge("rttc", END)
    return builder.compile(name="rttc_chat")


_open = ExitStack()
atexit.register(_open.close)
graph = _open.enter_context(open_local()).graph
chat = chat_of(graph)
