"""Store three solved questions, ask a fourth, print how the answer came about, and tidy up.

Run it with: python examples/quickstart.py
"""

from __future__ import annotations

import asyncio

from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.protocols import NewSample
from rttc_graph.samples.ingest import ingest

SOLVED = [
    ("How do I get a replacement for my cracked card?", "card replacement"),
    ("My card has not come in the post yet.", "card arrival"),
    ("Someone took money that I did not spend.", "disputed payment"),
]


async def main(local: LocalRttc) -> None:
    samples = [
        NewSample(question=question, answer=answer, domain="quickstart")
        for question, answer in SOLVED
    ]
    knowledge = local.knowledge
    await ingest(samples, knowledge.knowledge_base, knowledge.embedder, tenant=local.config.tenant)

    try:
        result = await local.ask("I am still waiting for my new card.", domain="quickstart")
    finally:  # the knowledge base is yours
        await knowledge.knowledge_base.delete(domain="quickstart", tenant=local.config.tenant)

    print("answer: ", result["answer"])
    print("arm:    ", result["arm"])
    print("reward: ", result["reward"])
    for entry in result["ledger"]:
        print(f"  {entry['node']:13} {entry['event']:9} {entry['seconds']:.3f} s")


if __name__ == "__main__":
    with open_local() as opened:
        asyncio.run(main(opened))
