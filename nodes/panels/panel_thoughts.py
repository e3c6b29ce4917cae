"""Questions of a graph of thoughts: answered, split and answered from their parts, all in one call.

An answer is drawn from every proposer and judged as an answer to its own question; the best-judged
one is the question's. Answers from the parts of the run's own question are draws of the panel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.nodes.panels.panel_drawing import PanelDrawing
from rttc_graph.nodes.panels.panel_judging import Judged, judged_draws, rewarded
from rttc_graph.nodes.panels.thought_rows import ThoughtRow, ThoughtRows, asked_of
from rttc_graph.nodes.panels.thought_splitting import ThoughtSplitting
from rttc_graph.protocols import (
    Embedder,
    Generation,
    KnowledgeBase,
    PolicyModel,
    RewardModel,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.answering import generated, stream_candidate
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.strategy import Proposal, Thinking
from rttc_graph.search.thinking.thought_graph import ROOT, known_for, root_of
from rttc_graph.search.thinking.thought_split import (
    condensed,
)
from rttc_graph.state import Drawn, RttcState, Thought, ThoughtStatus

NO_ROOM = "neither budget nor context has room for it"


def with_root(panel: Panel, state: RttcState) -> Panel:
    """Return a panel with the run's own question, which has direct answers now, in its graph."""
    root: Thought = {**root_of(standalone_query(state), panel), "status": "answered"}
    return replace(panel, thoughts=(root,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelThoughts:
    """What works on the questions of a panel's graph."""

    policy_model: PolicyModel
    reward_model: RewardModel
    knowledge_base: KnowledgeBase | None = None
    """Where samples for each question come from; `None` for a graph that retrieves none."""
    embedder: Embedder | None = None
    """Finds samples, and questions that ask the same; there is one with a knowledge base."""

    async def grown(
        self, panel: Panel, proposal: Proposal, state: RttcState, scope: RunScope, notes: Notes
    ) -> Panel | None:
        """Return the panel with one more layer; `None` if no room is left for the last answer.

        A question that the budget has no room for is closed as it is.

        Raises:
            ConfigurationError: The strategy names a question that is not there.
            PolicyModelError: The model failed.
        """
        thinks, since = _checked(proposal.thinks or Thinking(), panel, state), time.monotonic()
        rows = await ThoughtRows(self.policy_model).fitting(panel, thinks, state, scope)
        if not rows and ROOT in thinks.joins:
            return None
        panel = _without_room(panel, thinks, {one.place for one in rows})
        if not rows:
            return panel
        requests = [one.row.request for one in rows]
        made = await generated(self.policy_model, requests, deadline=scope.deadline)
        parameters = await parameters_of(self.policy_model)
        flops = [forward_flops(parameters, _computed(one)) for one in made]
        notes.add(
            "drawn",
            since=since,
            arm=state["attempt"],
            **{name: len(places) for name, places in _named(thinks).items() if places},
            prompt_tokens=sum(one.prompt_tokens for one in made),
            completion_tokens=sum(one.completion_tokens for one in made),
            reused_tokens=sum(one.reused_tokens for one in made),
            flops=summed(*flops),
            reason=proposal.reason,
        )
        panel = _with_costs(panel, rows, made, flops)
        answers = [pair for pair in zip(rows, made, strict=True) if not pair[0].most]
        panel = await self._answered(panel, thinks, answers, state, scope, notes)
        said = {
            one.place: (text.text, one.most)
            for one, text in zip(rows, made, strict=True)
            if one.most
        }
        splitting = ThoughtSplitting(self.knowledge_base, self.embedder)
        return await splitting.split(panel, said, state, scope, notes) if said else panel

    async def _answered(
        self,
        panel: Panel,
        thinks: Thinking,
        answers: Sequence[tuple[ThoughtRow, Generation]],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel:
        """Return the panel with what was answered, each judged as an answer to its question."""
        of_root = [pair for pair in answers if pair[0].place == ROOT]
        if of_root:
            return await self._last(panel, of_root, state, scope, notes)
        since, places = time.monotonic(), list(dict.fromkeys(row.place for row, _ in answers))
        apart = [Notes(notes.node) for _ in places]
        judged = await asyncio.gather(
            *(
                self._judged(panel, thinks, place, answers, state, scope, own)
                for place, own in zip(places, apart, strict=True)
            )
        )
        notes.entries.extend(chain.from_iterable(own.entries for own in apart))
        for place, one in zip(places, judged, strict=True):
            panel = _with_answer(panel, place, one.drawn, joins=place in thinks.joins)
        if places:
            notes.add(
                "judged_thoughts",
                since=since,
                reward_model=self.reward_model.name,
                arm=state["attempt"],
                thoughts=places,
                rewards=[one.rewards for one in judged],
                tokens=summed(*(one.tokens for one in judged)),
                flops=summed(*(one.flops for one in judged)),
                tau_r=panel.tau_r,
            )
        return panel

    async def _judged(
        self,
        panel: Panel,
        thinks: Thinking,
        place: int,
        answers: Sequence[tuple[ThoughtRow, Generation]],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Judged:
        asked = asked_of(panel, place, state, parts=place in thinks.joins)
        own = [(row.row, made) for row, made in answers if row.place == place]
        rows, made = [row for row, _ in own], [one for _, one in own]
        drawn = await PanelDrawing(self.policy_model).read(rows, made, asked)
        return await rewarded(self.reward_model, drawn, (), asked, scope, notes)

    async def _last(
        self,
        panel: Panel,
        answers: Sequence[tuple[ThoughtRow, Generation]],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel:
        """Return the panel with answers to the run's own question, which are draws.

        They are judged by the evidence that the direct answers were judged by.
        """
        rows, made = [row.row for row, _ in answers], [one for _, one in answers]
        drawn = await PanelDrawing(self.policy_model).read(rows, made, state)
        for number, one in enumerate(drawn, len(panel.drawn)):
            stream_candidate(one["text"], state, scope, attempt=state["attempt"], number=number)
        drawn = await judged_draws(self.reward_model, drawn, panel, state, scope, notes)
        inserted = _inserted(panel, ROOT, parts=True)
        rests_on = {
            "known": known_for(panel, ROOT, parts=True),
            **({"inserted": inserted} if inserted else {}),
        }
        drawn = [cast("Drawn", {**one, **rests_on}) for one in drawn]
        panel = _changed(panel, ROOT, {"status": "joined"})
        return replace(panel, drawn=(*panel.drawn, *drawn))


def _checked(thinks: Thinking, panel: Panel, state: RttcState) -> Thinking:
    """Return what is worked on if all of it is there.

    Raises:
        ConfigurationError: A question is not there, or the run's own is worked on beside others.
    """
    bad = [place for place in thinks.places if not 0 <= place < len(panel.thoughts)]
    if bad or (ROOT in thinks.joins and len(thinks.places) > 1) or ROOT in thinks.asks:
        raise ConfigurationError(
            f"strategy {state['attempt']!r} works on the questions {thinks!r} of a graph of "
            f"{len(panel.thoughts)}: name questions that are there, and the run's own, {ROOT}, "
            "alone and not to be asked again"
        )
    return thinks


def _named(thinks: Thinking) -> Mapping[str, Sequence[int]]:
    return {"asks": thinks.asks, "splits": thinks.splits, "joins": thinks.joins}


def _without_room(panel: Panel, thinks: Thinking, fitting: set[int]) -> Panel:
    """Return the panel with the questions closed that have no row: their wait would be for ever."""
    updates: dict[int, Thought] = {}
    for place in set(thinks.places) - fitting:
        one = panel.thoughts[place]
        status: ThoughtStatus = "joined" if place in thinks.joins else "answered"
        updates[place] = {**one, "status": status, "why": one["why"] or NO_ROOM}
    return _updated(panel, updates)


def _with_costs(
    panel: Panel,
    rows: Sequence[ThoughtRow],
    made: Sequence[Generation],
    flops: Sequence[float | None],
) -> Panel:
    """Return the panel with what each question took; draws of the panel have their own."""
    updates: dict[int, Thought] = {}
    for row, one, took in zip(rows, made, flops, strict=True):
        if row.place == ROOT and not row.most:
            continue
        before = updates.get(row.place, panel.thoughts[row.place])
        updates[row.place] = {
            **before,
            "prompt_tokens": before["prompt_tokens"] + one.prompt_tokens,
            "completion_tokens": before["completion_tokens"] + one.completion_tokens,
            "reused_tokens": before["reused_tokens"] + one.reused_tokens,
            "flops": summed(before["flops"], took),
        }
    return _updated(panel, updates)


def _with_answer(panel: Panel, place: int, drawn: Sequence[Drawn], *, joins: bool) -> Panel:
    """Return the panel with the best-judged of new answers to a question, or its earlier one."""
    before, best = panel.thoughts[place], best_of(drawn, range(len(drawn)))
    status = "joined" if joins else "answered"
    if best is None:
        return _changed(panel, place, {"status": status})
    one = drawn[best]
    old = before["reward"] if before["reward"] is not None else -1.0
    if before["answer"] and (one["reward"] is None or one["reward"] <= old):
        return _changed(panel, place, {"status": status})
    own = [before["found"][number] for number in one["shown"]]
    below = _inserted(panel, place, parts=joins)
    return _changed(
        panel,
        place,
        {
            "status": status,
            "answer": condensed(one["text"]),
            "reward": one["reward"],
            "proposer": one["proposer"],
            "known": known_for(panel, place, parts=joins),
            "inserted": list(dict.fromkeys([*own, *below])),
        },
    )


def _inserted(panel: Panel, place: int, *, parts: bool) -> list[int]:
    """Return the places of the samples that the answers in a question's prompt rest on."""
    known = known_for(panel, place, parts=parts)
    each = (panel.thoughts[one]["inserted"] for one in known)
    return list(dict.fromkeys(chain.from_iterable(each)))


def _changed(panel: Panel, place: int, update: Mapping[str, object]) -> Panel:
    return _updated(panel, {place: cast("Thought", {**panel.thoughts[place], **update})})


def _updated(panel: Panel, updates: Mapping[int, Thought]) -> Panel:
    return replace(
        panel, thoughts=tuple(updates.get(n, one) for n, one in enumerate(panel.thoughts))
    )


def _computed(one: Generation) -> int:
    return one.prompt_tokens - one.reused_tokens + one.completion_tokens
