"""A client at the edge: it answers, judges, trains and remembers; only the samples are elsewhere.

As in the paper, the knowledge base is on a server. A question never leaves this machine: its
vector goes up, samples come down. On the server: rttc serve --kb-only
Here: python examples/edge_client.py http://SERVER:8008 'a question' [domain] (key: RTTC_API_KEY)
"""

from __future__ import annotations

import asyncio
import os
import sys

from rttc_graph import RttcSettings, create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.integrations.remote.remote_knowledge_base import RemoteKnowledgeBase


async def main(local: LocalRttc, url: str, question: str, domain: str | None) -> None:
    embedder = local.knowledge.embedder
    key = os.environ.get("RTTC_API_KEY")
    async with RemoteKnowledgeBase(url, embedder, api_key=key) as samples:
        # Models, trainer, query-state cache and ledger are this machine's own.
        graph = create_rttc_graph(**{**local.parts, "knowledge_base": samples})
        settings = RttcSettings(policy="compare", tau_r=1.0)
        result = await ask(graph, question, domain=domain, settings=settings)
    print("answer: ", result["answer"])
    print("arm:    ", result["arm"])
    for entry in result["ledger"]:
        print(f"  {entry['node']:13} {entry['event']:10} {entry['seconds']:.3f} s")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python examples/edge_client.py URL QUESTION [DOMAIN]")
    with open_local() as opened:
        asyncio.run(main(opened, sys.argv[1], sys.argv[2], (sys.argv[3:] or [None])[0]))
