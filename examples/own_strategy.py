"""A strategy of one's own: draw two answers at a time until two of them agree.

Run it with: python examples/own_strategy.py
"""

from __future__ import annotations

import asyncio

from rttc_graph import RttcSettings
from rttc_graph.installation.local import LocalRttc, open_local
from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel, standings
from rttc_graph.search.strategies import register_strategy
from rttc_graph.search.strategy import Choice, Proposal


class TwoAgree:
    def propose(self, panel: Panel) -> Proposal:
        if panel.left == 0 or any(answer.votes > 1 for answer in standings(panel)):
            return Proposal(reason=f"enough after {len(panel.drawn)} draws")
        return Proposal(draws=panel.turns(2), reason="no two answers agree yet")

    def choose(self, panel: Panel) -> Choice:
        return voted(panel)


register_strategy("two_agree", TwoAgree(), cost=33)  # before the graph is built


async def main(local: LocalRttc) -> None:
    settings = RttcSettings(policy="two_agree", search_n=6, search_from=("direct",))
    result = await local.ask("Is 2121 a leap year? Answer with Yes or No.", settings=settings)
    print("answer:", result["answer"])
    for entry in result["ledger"]:
        if entry["event"] in ("drawn", "stopped"):
            print(entry["event"], entry["detail"]["draws"], entry["detail"]["reason"])


if __name__ == "__main__":
    with open_local() as opened:
        asyncio.run(main(opened))
