"""An agent of `langchain.agents.create_agent` that has RTTC as one of its tools.

The tool gives the model the answer and keeps the ledger as its artifact, for people. The agent
needs a model that calls tools; `Delegate` stands in for one, so that this runs without any:
put yours in its place. Run it with: python examples/agent.py
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool

from rttc_graph import RttcSettings
from rttc_graph.graph import RttcGraph
from rttc_graph.installation.local import open_local


class Delegate(BaseChatModel):
    """Hands each question to the tool `solve` and repeats what comes back."""

    @property
    def _llm_type(self) -> str:
        return "delegate"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            said = AIMessage(last.text)
        else:
            call = {"name": "solve", "args": {"question": last.text}, "id": f"call-{len(messages)}"}
            said = AIMessage("", tool_calls=[{**call, "type": "tool_call"}])
        return ChatResult(generations=[ChatGeneration(message=said)])


def solver(rttc: RttcGraph, settings: RttcSettings | None = None) -> BaseTool:
    """Return the tool; it never blocks the agent's event loop, and is cancelled with the agent."""

    @tool("solve", response_format="content_and_artifact")
    async def solve(
        question: Annotated[str, "One complete question."],
    ) -> tuple[str, dict[str, Any]]:
        """Answer a question with the help of similar solved ones."""
        result = await rttc.ainvoke({"query": question}, context=settings)
        return result["answer"], {"arm": result["arm"], "ledger": result["ledger"]}

    return solve


async def main(rttc: RttcGraph, model: BaseChatModel) -> None:
    agent = create_agent(model, tools=[solver(rttc)])
    state = await agent.ainvoke({"messages": [HumanMessage("How do I get a new card?")]})
    for message in state["messages"]:
        print(f"{message.type}: {message.text}")
        if isinstance(message, ToolMessage):
            print(
                f"  ({message.artifact['arm']}, {len(message.artifact['ledger'])} ledger entries)"
            )


if __name__ == "__main__":
    with open_local() as opened:
        asyncio.run(main(opened.graph, Delegate()))
