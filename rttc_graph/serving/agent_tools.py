"""Tools for agents over MCP, the Model Context Protocol: ask, search, ingest and rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from rttc_graph.errors import ConfigurationError, RttcError
from rttc_graph.graph import RttcGraph
from rttc_graph.protocols import Embedder, NewSample, Rating
from rttc_graph.protocols.managed_knowledge_base import ManagedKnowledgeBase
from rttc_graph.samples.corrections import Corrections
from rttc_graph.samples.domains import check_domain
from rttc_graph.samples.ingest import ingest
from rttc_graph.samples.rows import DEFAULT_DOMAIN
from rttc_graph.settings import RttcSettings

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ("AgentTools", "mcp_server")

MOST_FOUND = 64
"""Most samples of one search; an agent reads them all."""

_VERSION = version("rttc-graph")  # read from a file, so not in the event loop
_INSTRUCTIONS = (
    "Answers questions from solved ones. Act on an answer only if `accepted` is true; `sources` "
    "are what it rests on. Rate answers once their outcome is known: right ones become samples."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTools:
    """What an agent may do for one tenant: each method is a tool, described by its docstring."""

    graph: RttcGraph
    knowledge_base: ManagedKnowledgeBase
    embedder: Embedder
    corrections: Corrections
    settings: RttcSettings
    """Settings of all runs; their tenant is the one whose samples are used."""

    async def ask(
        self, question: str, domain: str | None = None, tau_r: float | None = None
    ) -> dict[str, Any]:
        """Answer one complete question.

        `accepted` says whether the answer can be acted on, `reward` (0 to 1) how good it is judged,
        `sources` which solved questions it rests on, and `run_id` is what `rate` takes. A domain
        narrows the search; `tau_r` is the reward from which on an answer is accepted.
        """
        settings = self.settings
        if tau_r is not None:
            settings = RttcSettings.of({"tau_r": tau_r}, defaults=settings)
        given: Any = {"query": question, "domain": domain}
        output = cast("dict[str, Any]", await self.graph.ainvoke(given, context=settings))
        keys = ("answer", "accepted", "declined", "reward", "tau_r", "calibrated", "arm", "run_id")
        taken = [source for source in output["sources"] if source["taken"]]
        return {key: output[key] for key in keys} | {"sources": taken}

    async def search(self, text: str, domain: str | None = None, k: int = 8) -> dict[str, Any]:
        """Find the solved questions nearest to a text, with their answers and cosine similarity."""
        if not 1 <= k <= MOST_FOUND:
            raise ConfigurationError(f"k={k!r} must be between 1 and {MOST_FOUND}")
        tenant = self.settings.tenant
        await check_domain(self.knowledge_base, domain, tenant=tenant)
        (vector,) = await self.embedder.embed([text])
        found = await self.knowledge_base.search(vector, k=k, domain=domain, tenant=tenant)
        return {"samples": found.samples}

    async def ingest(
        self, question: str, answer: str, domain: str = DEFAULT_DOMAIN, id: str | None = None
    ) -> dict[str, Any]:
        """Store a solved question; one with the id of a stored one takes its place."""
        sample = NewSample(question=question, answer=answer, domain=domain, external_id=id)
        report = await ingest(
            [sample], self.knowledge_base, self.embedder, tenant=self.settings.tenant
        )
        return {"stored": report.stored, "updated": report.updated, "already": report.already}

    async def rate(
        self, run_id: str, right: bool, answer: str | None = None, note: str | None = None
    ) -> dict[str, Any]:
        """Say whether an answer of `ask` was right, and if not, what is.

        `correction` says what became of the right answer: `stored` (a sample), `pending` (it waits
        for a person's approval) or `none`.
        """
        rating = Rating(run_id=run_id, is_right=right, answer=answer, note=note)
        done = await self.corrections.rate(rating, tenant=self.settings.tenant, may_store=False)
        return {"run_id": run_id, "right": right, "correction": done.rating.correction}


def mcp_server(tools: AgentTools) -> MCPServer:
    """Return a server of the tools; its `run` serves one client over stdin and stdout."""
    from mcp.server import MCPServer  # noqa: PLC0415 - of the extra mcp

    server = MCPServer("rttc-graph", version=_VERSION, instructions=_INSTRUCTIONS)
    for tool in (tools.ask, tools.search, tools.ingest, tools.rate):
        server.add_tool(_telling(tool))
    return server


def _telling(tool: Callable[..., Awaitable[dict[str, Any]]]) -> Callable[..., Any]:
    """Return the tool with errors of ours told to the agent; the server hides all others."""
    from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415 - of the extra mcp

    @wraps(tool)
    async def told(**arguments: Any) -> dict[str, Any]:
        try:
            return await tool(**arguments)
        except RttcError as exc:
            raise ToolError(str(exc)) from exc

    return told
