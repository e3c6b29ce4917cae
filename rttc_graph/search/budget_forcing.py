"""`budget_forcing`: one answer that is thought about neither too long nor too short.

After s1 (arXiv 2501.19393): a model that thinks to the end of its tokens is made to answer, and one
that ends early is made to think again. Added to it: tokens of the forced answer are kept from the
start, a loop ends thoughts too, and thinking again stops at τr.
"""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.search.majority import voted
from rttc_graph.search.panel import Panel, best_of, standings
from rttc_graph.search.strategy import Choice, Continuation, Proposal
from rttc_graph.state import Drawn
from rttc_graph.support.marks import FINAL_MARK
from rttc_graph.support.thinking import unclosed_mark, within_thoughts

WAIT = "\nWait,"
"""Text that makes a model go on with an answer that ends too early."""

_CUT = ("length", "loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetForcing:
    """Draws one answer from the first proposer, and goes on with it until it can be taken.

    Its thoughts and its forced answer have `max_new_tokens` together.
    """

    def propose(self, panel: Panel) -> Proposal:
        """Return the answer, what it is to be gone on with, or why it is not."""
        if not panel.drawn:
            return _first(panel)
        if panel.left == 0:
            return Proposal(reason=f"all {panel.size} answers are drawn")
        last = panel.drawn[-1]
        if last["finish_reason"] == "budget" or "whole" not in last:
            return Proposal(
                reason="the answer was cut at the deadline, or is too long to go on with"
            )
        is_cut = last["finish_reason"] in _CUT
        had_its_time = any(one["finish_reason"] in _CUT for one in panel.drawn)
        is_marked = FINAL_MARK in last["text"]
        again = None if had_its_time else self._again(panel, last)
        if again is not None:
            return again
        if is_marked or not (is_cut or len(panel.drawn) > 1):
            return Proposal(
                reason="the answer has ended by itself" if not is_marked else "answered"
            )
        return self._forced(panel, last)

    def choose(self, panel: Panel) -> Choice:
        """Return the best-judged answer that can be read; without rewards, the last one."""
        readable = [
            n
            for n, one in enumerate(panel.drawn)
            if one["vote"] is not None and one["text"].strip()
        ]
        if not readable:
            return voted(panel)
        judged = [n for n in readable if panel.drawn[n]["reward"] is not None]
        place = best_of(panel.drawn, judged) if judged else readable[-1]
        place = readable[-1] if place is None else place
        votes = next(one.votes for one in standings(panel) if place in one.places)
        return Choice(place, votes)

    def _again(self, panel: Panel, last: Drawn) -> Proposal | None:
        """Return how the model thinks again; `None` where it is not worth it, or not possible."""
        settings, whole = panel.settings, last.get("whole", "")
        waits, reward = whole.count(WAIT), last["reward"]
        room = settings.max_new_tokens - _used(panel) - settings.answer_tokens
        if waits >= settings.max_waits or room < 1:
            return None
        if reward is not None and reward >= panel.tau_r:
            return None
        thoughts = within_thoughts(whole)
        return Proposal(
            continuations=(_after(panel, (whole if thoughts is None else thoughts) + WAIT),),
            most_tokens=room,
            reserved_tokens=settings.answer_tokens,
            ends_loops=True,
            reason=f"the answer ended after {_used(panel)} tokens, below τr",
        )

    def _forced(self, panel: Panel, last: Drawn) -> Proposal:
        settings = panel.settings
        room = min(settings.answer_tokens, settings.max_new_tokens - _used(panel))
        if room < 1:
            return Proposal(reason=f"max_new_tokens={settings.max_new_tokens} are used")
        whole = last.get("whole", "")
        text = without_repeats(whole) if last["finish_reason"] == "loop" else whole
        closing = unclosed_mark(text)
        end = "" if closing is None else f"\n{closing}\n"
        return Proposal(
            continuations=(_after(panel, f"{text.rstrip()}{end}\n{FINAL_MARK}"),),
            most_tokens=room,
            reason=f"the answer is forced: it was at its end by {last['finish_reason']}",
        )


LONGEST_REPEATED = 1000
"""Most characters of what is repeated."""


def without_repeats(text: str) -> str:
    """Return a text that repeats its end word by word, three times or more, with this end once."""
    for size in range(1, min(LONGEST_REPEATED, len(text) // 3) + 1):
        unit = text[-size:]
        if text.endswith(unit * 3):
            while text.endswith(unit * 2):
                text = text[:-size]
            return text
    return text


def _first(panel: Panel) -> Proposal:
    draws, settings = {panel.proposers[0]: 1}, panel.settings
    thinking = settings.max_new_tokens - settings.answer_tokens
    if panel.size == 1 or thinking < 1:
        why = "one answer is wanted" if panel.size == 1 else "there is no room to force an answer"
        return Proposal(draws=draws, reason=why)
    return Proposal(
        draws=draws,
        most_tokens=thinking,
        reserved_tokens=settings.answer_tokens,
        ends_loops=True,
        reason=f"an answer of {thinking} tokens, and {settings.answer_tokens} are kept",
    )


def _after(panel: Panel, begun: str) -> Continuation:
    return Continuation(len(panel.drawn) - 1, begun)


def _used(panel: Panel) -> int:
    return sum(one["completion_tokens"] for one in panel.drawn)
