"""`search_o1`: an answer that is stopped where a fact is missing, and goes on with what is found.

After Search-o1 (arXiv 2501.05366). Added to it: the knowledge base takes the place of the web, low
confidence and a falling step reward stop an answer too, and what is found stays only where a trial
from the same beginning, with it and without it, is judged better with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.arms import ARMS
from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.strategy import Choice, Proposal, without_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchO1:
    """Draws one answer, and a pair of answers for each look-up in it."""

    def propose(self, panel: Panel) -> Proposal:
        """Return the answer to watch, the next look-up, or why there is none."""
        if not panel.drawn:
            watches = panel.size >= ROOM_OF_A_LOOK_UP
            reason = "an answer is watched" if watches else "search_n has no room for a look-up"
            return Proposal(draws={_proposer(panel): 1}, watches=watches, reason=reason)
        if panel.left == 0:
            return Proposal(reason=f"all {panel.size} answers are drawn")
        place, why_not = _open_place(panel)
        if place is None:
            return Proposal(reason=why_not)
        return Proposal(
            looks_up_at=place, reason=f"answer {place} is stopped: {_why(panel, place)}"
        )

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged whole answer; of equals the one with the fewest look-ups."""
        whole = [n for n, one in enumerate(panel.drawn) if is_whole(panel, n) and one["text"]]
        place = best_of(panel.drawn, whole)
        if place is None:
            return without_votes(panel)
        vote = panel.drawn[place]["vote"]
        return Choice(place, votes=sum(vote is not None and d["vote"] == vote for d in panel.drawn))


ROOM_OF_A_LOOK_UP = 3
"""Answers that a look-up needs: the one that is stopped, and a pair behind it."""


def is_whole(panel: Panel, place: int) -> bool:
    """Tell whether a draw is a whole answer, not one that was stopped for a look-up."""
    one = panel.drawn[place]
    return one["halt"]["is_whole"] if "halt" in one else one["finish_reason"] != "step"


def _open_place(panel: Panel) -> tuple[int | None, str]:
    """Return the place of the draw in which the next look-up is due; else `None` and why."""
    place = 0
    if panel.lookups:
        last = panel.lookups[-1]
        if last["behind"] is None:
            return None, last["reason"]
        if last["kept"] is False:
            return None, "what was found has made the answer no better"
        place = last["behind"]
    one = panel.drawn[place]
    if "halt" not in one:
        return None, "the model asks for nothing, and is sure of its answer"
    if not is_whole(panel, place):
        return place, ""
    if one["reward"] is not None and one["reward"] >= panel.tau_r:
        return None, f"its reward {one['reward']:.3f} is at least τr {panel.tau_r:g}"
    if len(panel.lookups) >= panel.settings.lookups:
        return None, f"search_lookups={panel.settings.lookups} look-ups are made"
    return place, ""


def _why(panel: Panel, place: int) -> str:
    words = {
        "tag": "the model looks something up",
        "confidence": "the model is unsure",
        "reward": "it is judged below τr, or a step worse than the one before",
    }
    halt = panel.drawn[place].get("halt")
    return words[halt["trigger"]] if halt else "it was stopped"


def _proposer(panel: Panel) -> str:
    """Return whom the answer is drawn from: one with samples in the prompt, else the first one."""
    shows = [name for name in panel.proposers if ARMS.attempts[name].finds == "samples"]
    return next(iter(shows), panel.proposers[0])
