"""What is asked of the policy model for the questions of a graph of thoughts, within the budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from rttc_graph.arms import ARMS, PLAIN
from rttc_graph.errors import BudgetExceeded
from rttc_graph.nodes.panels.panel_drawing import DrawRow, PanelDrawing
from rttc_graph.nodes.panels.panel_judging import adapter_of
from rttc_graph.protocols import GenerationRequest, PolicyModel, can_follow_schema
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.prompts import direct_messages
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.search.strategy import Thinking
from rttc_graph.search.thinking.thought_graph import ROOT, known_for, thoughts_left
from rttc_graph.search.thinking.thought_split import (
    TOKENS_OF_PART,
    split_messages,
    split_schema,
    with_known,
)
from rttc_graph.state import Attempt, RttcState, Sample


class ThoughtRow(NamedTuple):
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
    rows: list[ThoughtRow] = field(default_factory=list[ThoughtRow])

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
            self.rows.append(ThoughtRow(place, row._replace(request=request), most))


class ThoughtRows:
    """Makes the rows of a round: answers to questions, splits of them, and the last answer.

    Args:
        policy_model: Counts the tokens of their prompts.
    """

    def __init__(self, policy_model: PolicyModel) -> None:
        self._policy = policy_model

    async def fitting(
        self, panel: Panel, thinks: Thinking, state: RttcState, scope: RunScope
    ) -> list[ThoughtRow]:
        """Return what the budget has room for, beside the last answer, were each at its longest."""
        is_last = ROOT in thinks.joins
        left = (await tokens_left(self._policy, scope.allowance, scope.settings)).tokens
        reserved = 0 if is_last else await self._reserved(panel, state, scope)
        room = _Room(left - reserved, await self._policy.context_tokens())
        for place in (*thinks.joins, *thinks.asks):
            for row in await self._answer_rows(panel, thinks, place, state, scope):
                prompt = await self._policy.count_tokens(row.request.messages)
                room.take(place, row, prompt, again=not is_last)
        more = thoughts_left(panel)
        for place in thinks.splits:
            most = min(panel.settings.thought_parts, more)
            if most < 1:
                break
            row = self._split_row(panel, place, most, scope)
            prompt = await self._policy.count_tokens(row.request.messages)
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
        return await self._policy.count_tokens(messages) + settings.max_new_tokens

    async def _answer_rows(
        self, panel: Panel, thinks: Thinking, place: int, state: RttcState, scope: RunScope
    ) -> list[DrawRow]:
        """Return one answer of every proposer to a question."""
        settings, drawing = scope.settings, PanelDrawing(self._policy)
        asked = asked_of(panel, place, state, parts=place in thinks.joins)
        rows: list[DrawRow] = []
        proposers = _proposers(panel, place)
        most = panel.left if place == ROOT else len(proposers)
        for proposer in proposers:
            if len(rows) == most:
                break
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
            answer_schema=split_schema(most) if can_follow_schema(self._policy) else "",
        )
        return DrawRow(PLAIN, (), request, 0)


def _proposers(panel: Panel, place: int) -> tuple[Attempt, ...]:
    """Return whom a question's answers are drawn from: samples stand in where some were found."""
    if place == ROOT:
        return panel.proposers
    found = bool(panel.thoughts[place]["found"])
    there = [one for one in panel.proposers if found or ARMS.attempts[one].finds != "samples"]
    return tuple(there) or (PLAIN,)


def _with_known(panel: Panel, place: int, *, parts: bool, question: str = "") -> str:
    """Return a question behind those that it needs, or that are its parts, with their answers."""
    known = [panel.thoughts[one] for one in known_for(panel, place, parts=parts)]
    pairs = [(one["question"], one["answer"]) for one in known]
    return with_known(question or panel.thoughts[place]["question"], pairs)


def asked_of(panel: Panel, place: int, state: RttcState, *, parts: bool) -> RttcState:
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
