"""RTTC as a node of a chat agent that shares its keys: messages in, answer and ledger out.

The agent's checkpointer keeps the conversation, its context sets the limits of the run, and with
`subgraphs=True` its stream shows what happens inside. Run it with: python examples/shared_keys.py
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from rttc_graph import LedgerEntry, RttcSettings
from rttc_graph.graph import RttcGraph
from rttc_graph.installation.local import open_local


class Chat(TypedDict, total=False):
    """The agent's state: three keys that RTTC writes as well, and one that it does not know."""

    messages: Annotated[list[AnyMessage], add_messages]
    arm: str
    ledger: list[LedgerEntry]
    turns: int


def build_agent(rttc: RttcGraph) -> Any:
    """Return the agent with RTTC as its node `answer`."""

    def count(chat: Chat) -> Chat:
        return {"turns": chat.get("turns", 0) + 1}

    agent = StateGraph(Chat, context_schema=RttcSettings)
    agent.add_node("count", count)
    agent.add_node("answer", rttc)
    agent.add_edge(START, "count")
    agent.add_edge("count", "answer")
    agent.add_edge("answer", END)
    return agent.compile(checkpointer=InMemorySaver())


async def main(rttc: RttcGraph) -> None:
    agent = build_agent(rttc)
    for text in ("How do I get a new card?", "And how long does it take?"):
        stream = agent.astream(
            {"messages": [HumanMessage(text)]},
            {"configurable": {"thread_id": "1"}},
            context=RttcSettings(budget_seconds=60, max_new_tokens=64),
            stream_mode=["custom", "values"],
            subgraphs=True,
        )
        chat: Any = {}
        async for namespace, mode, event in stream:
            if mode == "custom" and event["event"] == "ledger":
                print(f"  {event['entry']['node']}: {event['entry']['event']}")
            elif mode == "values" and not namespace:
                chat = event
        print(f"turn {chat['turns']}, {len(chat['messages'])} messages, {chat['arm']}:")
        print(f"  {chat['messages'][-1].text}")


if __name__ == "__main__":
    with open_local() as opened:
        asyncio.run(main(opened.graph))
