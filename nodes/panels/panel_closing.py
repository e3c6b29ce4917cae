"""Updates of a panel: after a round, at its end, and where it has no answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, JUDGE
from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.nodes.panels.panel_judging import candidate_of
from rttc_graph.protocols import summed
from rttc_graph.run.answering import answered, failed_answer
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import NOTHING_SPENT, added
from rttc_graph.run.ledger import Notes, judging_flops, record
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import (
    Panel,
    Standing,
    best_of,
    standings,
    with_wholes_of,
    without_needless_texts,
)
from rttc_graph.search.strategies import strategy_of
from rttc_graph.search.strategy import Choice, without_votes
from rttc_graph.search.thinking.thought_graph import ROOT, reward_of, why_whole
from rttc_graph.search.weighted import judged_weight
from rttc_graph.state import (
    Attempt,
    Candidate,
    Decision,
    Drawn,
    LedgerEntry,
    PanelState,
    RttcState,
    Sample,
    Spent,
    StepNode,
    Thought,
)

NODE = "panel_round"

SHOWN_ANSWERS = 5
"""Answers, the ones with the most votes, that the event of a round lists."""

SHOWN_STANDINGS = 10
"""Answers, the ones with the most votes and the one that is kept, that the ledger lists."""

SHOWN_CHARACTERS = 200
"""Longest part of a step's or an answer's text that events and ledger show, with a `…` at its end
where there is more; the whole is in the checkpoint."""


class PanelUpdate(TypedDict, total=False):
    """State update of `panel_round`."""

    panel: PanelState
    looked_up: list[Sample]
    candidates: list[Candidate]
    tried: list[Attempt]
    decision: Decision
    spent: Spent
    ledger: list[LedgerEntry]


async def go_on(
    panel: Panel, before: PanelState, state: RttcState, scope: RunScope, notes: Notes
) -> PanelUpdate:
    """Return the update of a round; the next step draws another one or finishes."""
    new = panel.drawn[len(before["drawn"]) :]
    paid, had = rows_of(panel), rows_of(_as_before(panel, before))
    choice = await _chosen(panel, state)
    chosen = None if isinstance(choice, Failure) else choice
    kept = without_needless_texts(panel, chosen=chosen.place if chosen else None)
    kept = with_wholes_of(kept, first=len(before["drawn"]))
    after: PanelState = {
        "attempt": state["attempt"],
        "drawn": list(kept),
        "rounds": before["rounds"] + 1,
        "seconds": before["seconds"] + _elapsed(scope),
        "compared": [
            {"places": places, "earlier": earlier} for places, earlier in panel.compared.items()
        ],
        "checking_tokens": panel.checking_tokens,
        "checking_flops": panel.checking_flops,
        "tree": list(panel.tree),
        "lookups": list(panel.lookups),
        "thoughts": list(panel.thoughts),
    }
    checked = panel.checking_tokens - before.get("checking_tokens", 0)
    checked_flops = (panel.checking_flops or 0.0) - (before.get("checking_flops") or 0.0)
    scope.emit(
        {
            "event": "panel",
            "arm": state["attempt"],
            "round": after["rounds"],
            "drawn": len(panel.drawn),
            "size": panel.size,
            "draws": dict(Counter(one["proposer"] for one in new)),
            "votes": {one.answer: one.votes for one in standings(panel)[:SHOWN_ANSWERS]},
            "leader": panel.drawn[chosen.place]["vote"] if chosen else None,
            "kept": chosen.place if chosen else None,
            "rewards": [one["reward"] for one in new],
            "answers": list(new),
            "tokens": _tokens(rows_of(panel)) + panel.checking_tokens,
            "flops": _flops(panel),
            "seconds": after["seconds"],
            **(
                {"steps": shown_steps(panel, first=len(before.get("tree", ())))}
                if panel.tree
                else {}
            ),
            **({"thoughts": shown_thoughts(panel)} if panel.thoughts else {}),
        }
    )
    return {
        "panel": after,
        "looked_up": list(panel.found),
        "decision": NODE,
        "spent": added(
            state["spent"],
            since=scope.started,
            tokens=_tokens(paid) - _tokens(had) + checked,
            flops=_known_flops(paid) - _known_flops(had) + checked_flops + judging_flops(notes),
        ),
        "ledger": record(state, scope, notes.entries),
    }


async def finish(
    panel: Panel,
    why: str | Failure,
    before: PanelState,
    state: RttcState,
    scope: RunScope,
    notes: Notes,
) -> PanelUpdate:
    """Return the update of a panel that ends: its answer, or that there is none."""
    if not panel.drawn:
        if isinstance(why, str):
            why = Failure(PolicyModelError(f"nothing was drawn: {why}"))
        return no_answer(why, state, scope, notes)
    choice = await _chosen(panel, state)
    if isinstance(choice, Failure):
        failed, choice = choice, await survive(_called(without_votes, panel), deadline=soon())
        if not isinstance(choice, Failure) or choice.reason != failed.reason:
            notes.add_failure(failed, since=scope.started, arm=state["attempt"])
    if isinstance(choice, Failure):
        return no_answer(choice, state, scope, notes)
    kept = panel.drawn[choice.place]
    seconds = before["seconds"] + _elapsed(scope)
    paid = rows_of(panel)
    notes.add(
        "stopped",
        since=scope.started,
        arm=state["attempt"],
        reason=why,
        rounds=before["rounds"],
        draws=dict(Counter(one["proposer"] for one in panel.drawn)),
        answers=len(standings(panel)),
        votes=choice.votes,
        kept=choice.place,
        standings=shown_standings(panel, kept=choice.place),
        tokens=_tokens(paid) + panel.checking_tokens,
        flops=_flops(panel),
        **({"steps": shown_steps(panel)} if panel.tree else {}),
        **({"lookups": shown_lookups(panel, kept)} if panel.lookups else {}),
        **({"thoughts": shown_thoughts(panel)} if panel.thoughts else {}),
    )
    candidate: Candidate = {
        **candidate_of(kept, state),
        "arm": ARMS.of_attempt(state["attempt"]).name,
        "seconds": seconds,
        "prompt_tokens": panel.checking_tokens + sum(one["prompt_tokens"] for one in paid),
        "completion_tokens": sum(one["completion_tokens"] for one in paid),
        "reused_tokens": sum(one.get("reused_tokens", 0) for one in paid),
        "draws": len(panel.drawn),
        "flops": _flops(panel),
    }
    update = answered(
        candidate,
        {**state, "ledger": record(state, scope, notes.entries)},
        scope,
        node=NODE,
        attempt=state["attempt"],
        tokens=0,  # each round has paid its own
        votes=choice.votes,
        drawn=len(panel.drawn),
        proposer=kept["proposer"],
    )
    closed: PanelState = {**before, "seconds": seconds}
    return cast("PanelUpdate", {**update, "panel": closed, "decision": JUDGE})


def no_answer(failure: Failure, state: RttcState, scope: RunScope, notes: Notes) -> PanelUpdate:
    """Return the update of a panel without an answer."""
    state = {**state, "ledger": record(state, scope, notes.entries)}
    update = failed_answer(failure, state, scope, node=NODE, attempt=state["attempt"])
    return cast("PanelUpdate", {**update, "decision": JUDGE})


async def _chosen(panel: Panel, state: RttcState) -> Choice | Failure:
    """Return what the strategy would keep now; it may be the user's own, and fail."""

    def choose(panel: Panel) -> Choice:
        choice = strategy_of(state["attempt"]).choose(panel)
        if not 0 <= choice.place < len(panel.drawn) or not panel.drawn[choice.place]["text"]:
            raise ConfigurationError(
                f"strategy {state['attempt']!r} keeps draw {choice.place!r} of "
                f"{len(panel.drawn)}, whose text is not in hand: keep one that has a text"
            )
        return choice

    return await survive(_called(choose, panel), deadline=soon())


async def _called(decide: Callable[[Panel], Choice], panel: Panel) -> Choice:
    return decide(panel)


def soon() -> float:
    """Return a deadline for a decision, which the budget of seconds never takes away."""
    return time.monotonic() + GRACE_SECONDS


Row = Drawn | StepNode | Thought
"""Whatever has tokens of its own."""


def rows_of(panel: Panel) -> list[Row]:
    """Return all that was drawn, each row once: a step that ends an answer is the answer's."""
    steps = (node for node in panel.tree if node["answer"] is None)
    return [*panel.drawn, *steps, *panel.thoughts]


def _as_before(panel: Panel, before: PanelState) -> Panel:
    """Return the panel as it was before this round, as far as it has tokens."""
    return replace(
        panel,
        drawn=tuple(before["drawn"]),
        tree=tuple(before.get("tree", ())),
        thoughts=tuple(before.get("thoughts", ())),
    )


def shown_steps(panel: Panel, *, first: int = 0) -> list[dict[str, Any]]:
    """Return steps of a panel's tree in a form that can be drawn, from a place on.

    Args:
        panel: The panel.
        first: Place of the first step that is shown.
    """
    return [
        {
            "node": place,
            "parent": node["parent"],
            "round": node["round"],
            "proposer": node["proposer"],
            "look": node["look"],
            "step": _shortened(node["text"]),
            "p": node["p"],
            "tokens": node["completion_tokens"],
            "finish_reason": node["finish_reason"],
            "answer": node["answer"],
        }
        for place, node in enumerate(panel.tree)
        if place >= first
    ]


def shown_thoughts(panel: Panel) -> list[dict[str, Any]]:
    """Return the questions of a panel's graph in a form that can be drawn, parents first.

    The run's own question has the answer that is kept now, and the tokens of all its answers.
    """
    return [_shown_thought(panel, place) for place in range(len(panel.thoughts))]


def _shown_thought(panel: Panel, place: int) -> dict[str, Any]:
    one, of_panel = panel.thoughts[place], place == ROOT
    best = best_of(panel.drawn, range(len(panel.drawn))) if of_panel else None
    drawn = None if best is None else panel.drawn[best]
    answer = one["answer"] if drawn is None else drawn["text"]
    rows: list[Row] = [one, *(panel.drawn if of_panel else ())]
    return {
        "node": place,
        "parent": one["parent"],
        "parts": one["parts"],
        "needs": one["needs"],
        "depth": one["depth"],
        "round": one["round"],
        "status": one["status"],
        "known": (one if drawn is None else drawn).get("known", []),
        "proposer": one["proposer"] if drawn is None else drawn["proposer"],
        "question": _shortened(one["question"]),
        "answer": _shortened(answer),
        "p": reward_of(panel, place) if answer else None,
        "tokens": _tokens(rows),
        "why": one["why"] or (why_whole(panel, place) if one["status"] == "answered" else ""),
    }


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def shown_lookups(panel: Panel, kept: Drawn) -> list[dict[str, Any]]:
    """Return the look-ups of a panel, each with whether the answer rests on what it found."""
    rests_on = {panel.found[place]["id"] for place in kept.get("inserted", ())}
    return [
        {
            "trigger": one["trigger"],
            "query": _shortened(one["query"]),
            "samples": one["samples"],
            "kept": bool(one["samples"]) and rests_on.issuperset(one["samples"]),
        }
        for one in panel.lookups
    ]


def shown_standings(panel: Panel, *, kept: int) -> list[dict[str, Any]]:
    """Return the answers of a panel with the votes for each, the most first, and the one kept.

    The weight is what a vote by rewards counts (see `judged_weight`), whether the strategy goes by
    it or not; the reward is the highest of the draws that say so.

    Args:
        panel: The panel.
        kept: Place of the draw that is the panel's answer.
    """
    found = sorted(standings(panel), key=lambda one: kept not in one.places)
    shown = sorted(found[:SHOWN_STANDINGS], key=lambda one: -one.weight)
    return [_shown_standing(panel, one, kept) for one in shown]


def _shown_standing(panel: Panel, one: Standing, kept: int) -> dict[str, Any]:
    best = best_of(panel.drawn, one.places)
    voted = [panel.drawn[place] for place in one.places]
    rewards = [drawn["reward"] for drawn in voted if drawn["reward"] is not None]
    text = one.answer if best is None else panel.drawn[best]["text"]
    return {
        "answer": _shortened(text),
        "votes": one.votes,
        "weight": round(judged_weight(voted), 3),
        "reward": max(rewards, default=None),
        "kept": kept in one.places,
    }


def _flops(panel: Panel) -> float | None:
    return summed(*(one.get("flops") for one in rows_of(panel)), panel.checking_flops)


def _known_flops(drawn: Sequence[Row]) -> float:
    return sum(one.get("flops") or 0.0 for one in drawn)


def _tokens(drawn: Sequence[Row]) -> int:
    return sum(one["prompt_tokens"] + one["completion_tokens"] for one in drawn)


def _elapsed(scope: RunScope) -> float:
    return added(NOTHING_SPENT, since=scope.started)["seconds"]
