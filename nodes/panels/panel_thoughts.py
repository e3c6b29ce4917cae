"""Questions of a graph of thoughts: answered, split and answered from their parts, all in one call.

An answer is drawn from every proposer and judged as an answer to its own question; the best-judged
one is the question's. Answers from the parts of the run's own question are draws of the panel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple, cast

from rttc_graph.arms import ARMS, PLAIN
from rttc_graph.errors import BudgetExceeded, ConfigurationError
from rttc_graph.nodes.panels.panel_drawing import DrawRow, PanelDrawing
from rttc_graph.nodes.panels.panel_judging import Judged, adapter_of, judged_draws, rewarded
from rttc_graph.nodes.panels.thought_splitting import ThoughtSplitting
from rttc_graph.protocols import (
    Embedder,
    Generation,
    GenerationRequest,
    KnowledgeBase,
    PolicyModel,
    RewardModel,
    can_follow_schema,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.answering import generated, stream_candidate
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import direct_messages, standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel, best_of
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.search.strategy import Proposal, Thinking
from rttc_graph.search.thinking.thought_graph import ROOT, known_for, root_of, thoughts_left
from rttc_graph.search.thinking.thought_split import (
    TOKENS_OF_PART,
    condensed,
    split_messages,
    split_schema,
    with_known,
)
from rttc_graph.state import Attempt, Drawn, RttcState, Sample, Thought, ThoughtStatus

NO_ROOM = "neither budget nor context has room for it"


class _Row(NamedTuple):
    """One generation that is asked for."""

    place: int
    """Place of its question in the graph."""
    row: DrawRow
    most: int = 0
    """Most parts of a split; 0 for an answer."""


@dataclass(slots=True)
class _Room:
    """Tokens that a round may still take, prompts and answers."""

    left: int
    context: int | None
    rows: list[_Row] = field(default_factory=list[_Row])

    def take(self, place: int, row: DrawRow, prompt: int, *, most: int = 0, again: bool) -> None:
        """Add a row if it fits at its full length.

        Args:
            place: Place of its question.
            row: What is asked for.
            prompt: Tokens of its prompt.
            most: Most parts of a split.
            again: Whether what it says will stand in another prompt too.
        """
        wanted = row.request.max_new_tokens
        room = wanted if self.context is None else min(wanted, self.context - prompt)
        if not (again or self.rows):
            room = min(room, self.left - prompt)  # the last answer is shorter rather than missing
        cost = prompt + room * (2 if again else 1)
        if room >= 1 and cost <= self.left:
            self.left -= cost
            request = replace(row.request, max_new_tokens=room)
            self.rows.append(_Row(place, row._replace(request=request), most))


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
        rows = await self._rows(panel, thinks, state, scope)
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

    async def _rows(
        self, panel: Panel, thinks: Thinking, state: RttcState, scope: RunScope
    ) -> list[_Row]:
        """Return what the budget has room for, beside the last answer, were each at its longest."""
        is_last = ROOT in thinks.joins
        left = (await tokens_left(self.policy_model, scope.allowance, scope.settings)).tokens
        reserved = 0 if is_last else await self._reserved(panel, state, scope)
        room = _Room(left - reserved, await self.policy_model.context_tokens())
        for place in (*thinks.joins, *thinks.asks):
            for row in await self._answer_rows(panel, thinks, place, state, scope):
                prompt = await self.policy_model.count_tokens(row.request.messages)
                room.take(place, row, prompt, again=not is_last)
        more = thoughts_left(panel)
        for place in thinks.splits:
            most = min(panel.settings.thought_parts, more)
            if most < 1:
                break
            row = self._split_row(panel, place, most, scope)
            prompt = await self.policy_model.count_tokens(row.request.messages)
            room.take(place, row, prompt, most=most, again=True)
            more -= most
        return room.rows

    async def _reserved(self, panel: Panel, state: RttcState, scope: RunScope) -> int:
        """Return the tokens that the last answer takes, without the answers that are to come."""
        parts = panel.thoughts[ROOT]["parts"]
        known = [(panel.thoughts[n]["question"], panel.thoughts[n]["answer"]) for n in parts]
        task, settings = state["task"], scope.settings
        asked = with_known(task["query"], known)
        messages = direct_messages(asked, task["history"], settings.prompts)
        return await self.policy_model.count_tokens(messages) + settings.max_new_tokens

    async def _answer_rows(
        self, panel: Panel, thinks: Thinking, place: int, state: RttcState, scope: RunScope
    ) -> list[DrawRow]:
        """Return one answer of every proposer to a question."""
        settings, drawing = scope.settings, PanelDrawing(self.policy_model)
        asked = _asked(panel, place, state, parts=place in thinks.joins)
        rows: list[DrawRow] = []
        for proposer in _proposers(panel, place):
            try:
                messages, shown = await drawing.prompt(proposer, 0, asked, scope)
            except BudgetExceeded:
                continue  # its samples do not fit; others may
            number = len(panel.drawn) + len(rows) if place == ROOT else place
            request = GenerationRequest(
                messages=messages,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop=settings.stop_strings,
                seed=draw_seed(settings.seed, number),
                adapter=adapter_of(proposer, state),
            )
            rows.append(DrawRow(proposer, shown, request, 0))
        return rows

    def _split_row(self, panel: Panel, place: int, most: int, scope: RunScope) -> DrawRow:
        settings = scope.settings
        asked = _with_known(panel, place, parts=False)
        request = GenerationRequest(
            messages=split_messages(asked, most=most),
            max_new_tokens=TOKENS_OF_PART * most,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=draw_seed(settings.seed, place),
            answer_schema=split_schema(most) if can_follow_schema(self.policy_model) else "",
        )
        return DrawRow(PLAIN, (), request, 0)

    async def _answered(
        self,
        panel: Panel,
        thinks: Thinking,
        answers: Sequence[tuple[_Row, Generation]],
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
        answers: Sequence[tuple[_Row, Generation]],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Judged:
        asked = _asked(panel, place, state, parts=place in thinks.joins)
        own = [(row.row, made) for row, made in answers if row.place == place]
        rows, made = [row for row, _ in own], [one for _, one in own]
        drawn = await PanelDrawing(self.policy_model).read(rows, made, asked)
        return await rewarded(self.reward_model, drawn, (), asked, scope, notes)

    async def _last(
        self,
        panel: Panel,
        answers: Sequence[tuple[_Row, Generation]],
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
        if inserted:
            drawn = [cast("Drawn", {**one, "inserted": inserted}) for one in drawn]
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
    rows: Sequence[_Row],
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


def _proposers(panel: Panel, place: int) -> tuple[Attempt, ...]:
    """Return whom a question's answers are drawn from: samples stand in where some were found."""
    if place == ROOT:
        return panel.proposers[: panel.left]
    found = bool(panel.thoughts[place]["found"])
    there = [one for one in panel.proposers if found or ARMS.attempts[one].finds != "samples"]
    return tuple(there) or (PLAIN,)


def _with_known(panel: Panel, place: int, *, parts: bool, question: str = "") -> str:
    """Return a question behind those that it needs, or that are its parts, with their answers."""
    known = [panel.thoughts[one] for one in known_for(panel, place, parts=parts)]
    pairs = [(one["question"], one["answer"]) for one in known]
    return with_known(question or panel.thoughts[place]["question"], pairs)


def _asked(panel: Panel, place: int, state: RttcState, *, parts: bool) -> RttcState:
    """Return the state of a run whose question is one of the graph.

    The conversation goes with the run's own question alone: another one can be understood without.
    """
    task, one = state["task"], panel.thoughts[place]
    if place == ROOT:
        asked = _with_known(panel, place, parts=parts, question=task["query"])
        return {**state, "task": {**task, "query": asked}}
    samples = [
        cast("Sample", {**panel.found[n], "similarity": near})
        for n, near in zip(one["found"], one["near"], strict=True)
    ]
    system = [turn for turn in task["history"] if turn["role"] == "system"]
    asked = _with_known(panel, place, parts=parts)
    return {
        **state,
        "task": {**task, "query": asked, "history": system},
        "searched_with": "",
        "samples": samples,
        "looked_up": [],
        "candidates": [],
    }


def _computed(one: Generation) -> int:
    return one.prompt_tokens - one.reused_tokens + one.completion_tokens
