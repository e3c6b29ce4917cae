"""Draws of a panel: their prompts, within the budget, and the answers to them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rttc_graph.arms import ARMS
from rttc_graph.errors import BudgetExceeded
from rttc_graph.nodes.panels.panel_continuing import continued, longest, prompt_tokens
from rttc_graph.nodes.panels.panel_judging import adapter_of
from rttc_graph.nodes.panels.panel_revising import revision_request
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    PolicyModel,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.answering import fitting_prompt, generated, no_room
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import adapted_messages, direct_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.search.panel import Panel, draws_in_order
from rttc_graph.search.sample_subsets import draw_seed, sample_subset
from rttc_graph.search.strategy import Continuation, Proposal
from rttc_graph.search.thinking.lookup_text import without_lookups
from rttc_graph.state import Attempt, ChatTurn, Drawn, RttcState
from rttc_graph.support.thinking import spoken


class DrawRow(NamedTuple):
    """One draw that is asked for."""

    proposer: Attempt
    shown: tuple[int, ...]
    request: GenerationRequest
    most_tokens: int
    """Tokens of its prompt and of the longest answer."""
    revises: int | None = None
    """Place of the draw that it is a revision of."""


_ALL = 2**62
"""Number of tokens that nothing reaches."""


@dataclass(frozen=True, slots=True)
class PanelDrawing:
    """What draws the answers of a panel."""

    policy_model: PolicyModel

    async def rows(
        self,
        proposal: Proposal,
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[DrawRow]:
        """Return as many draws as the budget has room for, were each of them as long as it may be.

        Those that go on from the beginning of an answer come behind them, and are shorter where the
        budget wants it; revisions come last.

        Raises:
            BudgetExceeded: There is no room for the first draw.
            ConfigurationError: The proposal makes no sense.
        """
        rows = await self._fresh_rows(proposal, panel, state, scope, notes)
        left = (await tokens_left(self.policy_model, scope.allowance, scope.settings)).tokens
        left -= sum(row.most_tokens for row in rows)
        wanted: list[Continuation | int] = [*proposal.continuations, *proposal.revisions]
        free = panel.left - len(rows)
        for number, one in enumerate(wanted[:free], start=len(panel.drawn) + len(rows)):
            if isinstance(one, Continuation):
                request, revises = continued(one, number, proposal, panel, state, scope), None
                place, most = one.place, left
            else:
                request, revises = revision_request(one, number, panel, state, scope), one
                place, most = one, _ALL
            prompt = await prompt_tokens(self.policy_model, request)
            room = await self._room(request.max_new_tokens, prompt, most, proposal)
            if room < 1 or prompt + room > left:
                break
            request = replace(request, max_new_tokens=room)
            earlier = panel.drawn[place]
            shown = tuple(earlier["shown"])
            rows.append(DrawRow(earlier["proposer"], shown, request, prompt + room, revises))
            left -= prompt + room
        return rows

    async def _room(self, wanted: int, prompt: int, left: int, proposal: Proposal) -> int:
        """Return how long an answer may be that is gone on with where the proposal says so.

        Then the budget has room for its prompt, itself and `reserved_tokens` twice over.
        """
        context, reserved = await self.policy_model.context_tokens(), proposal.reserved_tokens
        limits = [wanted, left - prompt]
        if context is not None:
            limits.append(context - prompt)
        if reserved:
            kept = [(left - 2 * prompt - reserved) // 2]
            kept += [] if context is None else [context - prompt - reserved]
            limits += [room for room in kept if room >= 1]  # else all of it is one answer
        return min(limits)

    async def _fresh_rows(
        self,
        proposal: Proposal,
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[DrawRow]:
        """Return the draws that begin an answer.

        The first draw of a panel is asked as a single answer would be: greedy by default, and
        shorter where the budget wants it.
        """
        settings = scope.settings
        order = draws_in_order(proposal.draws, panel.proposers)[: panel.left]
        left, rows, too_long = (
            (await tokens_left(self.policy_model, scope.allowance, settings)).tokens,
            list[DrawRow](),
            dict[Attempt, BudgetExceeded](),
        )
        turns = Counter(one["proposer"] for one in panel.drawn if "revises" not in one)
        for wanted in order:
            found = await self.prompt_of((wanted, *panel.proposers), turns, too_long, state, scope)
            if found is None:
                break
            proposer, messages, shown = found
            number = len(panel.drawn) + len(rows)
            prompt = await self.policy_model.count_tokens(messages)
            wanted_room = longest(proposal, scope)
            room = await self._room(wanted_room, prompt, left if number == 0 else _ALL, proposal)
            if number == 0 and room < 1:
                raise await no_room(self.policy_model, messages, scope)
            if room < 1 or prompt + room > left:
                break
            left -= prompt + room
            turns[proposer] += 1
            request = GenerationRequest(
                messages=messages,
                max_new_tokens=room,
                temperature=settings.search.temperature if number else settings.temperature,
                top_p=settings.top_p,
                stop=settings.stop_strings,
                seed=draw_seed(settings.seed, number),
                adapter=adapter_of(proposer, state),
                ends_loops=proposal.ends_loops,
            )
            rows.append(DrawRow(proposer, shown, request, prompt + room))
        if too_long and not rows and not panel.drawn:
            raise next(iter(too_long.values()))
        tell_too_long(too_long, state, scope, notes)
        return rows

    async def draw(
        self,
        rows: Sequence[DrawRow],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
        *,
        reason: str,
    ) -> list[Drawn]:
        """Return the answers of a round, all of them from one call."""
        since = time.monotonic()
        made = await generated(
            self.policy_model, [row.request for row in rows], deadline=scope.deadline
        )
        return await self.drawn(rows, made, state, notes, since=since, reason=reason)

    async def drawn(
        self,
        rows: Sequence[DrawRow],
        made: Sequence[Generation],
        state: RttcState,
        notes: Notes,
        *,
        since: float,
        reason: str,
    ) -> list[Drawn]:
        """Return what was generated for rows as draws, and note them in the ledger.

        Args:
            rows: What was asked for.
            made: What came, in order.
            state: State of the run.
            notes: Get an entry.
            since: Reading of `time.monotonic()` when it began.
            reason: Why it was drawn.
        """
        revisions = sum(row.revises is not None for row in rows)
        drawn = await self.read(rows, made, state)
        notes.add(
            "drawn",
            since=since,
            arm=state["attempt"],
            draws=dict(Counter(row.proposer for row in rows)),
            **({"revisions": revisions} if revisions else {}),
            prompt_tokens=sum(one["prompt_tokens"] for one in drawn),
            completion_tokens=sum(one["completion_tokens"] for one in drawn),
            reused_tokens=sum(one.reused_tokens for one in made),
            flops=summed(*(one.get("flops") for one in drawn)),
            reason=reason,
        )
        return drawn

    async def read(
        self, rows: Sequence[DrawRow], made: Sequence[Generation], state: RttcState
    ) -> list[Drawn]:
        """Return draws made of what was generated for rows, in order, without rewards."""
        numeric = wants_number(sample["answer"] for sample in solved(state["samples"]))
        keeps_whole = ARMS.attempts[state["attempt"]].continues
        parameters = await parameters_of(self.policy_model)
        return [
            _drawn(row, one, numeric, parameters, keeps_whole=keeps_whole)
            for row, one in zip(rows, made, strict=True)
        ]

    async def prompt_of(
        self,
        proposers: Sequence[Attempt],
        turns: Mapping[Attempt, int],
        too_long: dict[Attempt, BudgetExceeded],
        state: RttcState,
        scope: RunScope,
    ) -> tuple[Attempt, tuple[ChatTurn, ...], tuple[int, ...]] | None:
        """Return the first of these proposers whose prompt fits, with it; `None` if none does.

        Those whose samples do not fit are added to `too_long`, and are not tried again there.
        """
        for proposer in proposers:
            if proposer in too_long:
                continue
            try:
                return proposer, *await self.prompt(proposer, turns[proposer], state, scope)
            except BudgetExceeded as exc:
                too_long[proposer] = exc
        return None

    async def prompt(
        self, proposer: Attempt, turn: int, state: RttcState, scope: RunScope
    ) -> tuple[tuple[ChatTurn, ...], tuple[int, ...]]:
        """Return the prompt of a draw, and the places of the samples in it.

        Raises:
            BudgetExceeded: Not even one sample fits.
        """
        task, samples = state["task"], state["samples"]
        if ARMS.attempts[proposer].finds == "adapter":
            prompts = scope.settings.prompts
            return adapted_messages(task["query"], samples, task["history"], prompts), ()
        if ARMS.attempts[proposer].finds != "samples":
            return direct_messages(task["query"], task["history"], scope.settings.prompts), ()
        places = sample_subset(len(samples), turn=turn, seed=scope.settings.seed)
        messages, used = await fitting_prompt(
            self.policy_model, [samples[place] for place in places], state, scope
        )
        return messages, places[:used]


def tell_too_long(
    too_long: Mapping[Attempt, BudgetExceeded], state: RttcState, scope: RunScope, notes: Notes
) -> None:
    """Note the proposers that nothing is drawn from, since their samples do not fit."""
    for proposer, error in too_long.items():
        notes.add(
            "skipped",
            since=scope.started,
            arm=state["attempt"],
            draws=proposer,
            reason=str(error),
        )


def _drawn(
    row: DrawRow, made: Generation, numeric: bool, parameters: int | None, *, keeps_whole: bool
) -> Drawn:
    computed = made.prompt_tokens - made.reused_tokens + made.completion_tokens
    text = spoken(without_lookups(made.text) if keeps_whole else made.text).answer
    drawn: Drawn = {
        "proposer": row.proposer,
        "text": text,
        "vote": read_vote(text, finish_reason=made.finish_reason, numeric=numeric),
        "reward": None,
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "mean_logprob": made.mean_logprob,
        "finish_reason": made.finish_reason,
        "shown": list(row.shown),
        "reused_tokens": made.reused_tokens,
        "flops": forward_flops(parameters, computed),
    }
    if row.revises is not None:
        drawn["revises"] = row.revises
    return {**drawn, "whole": made.text} if keeps_whole else drawn
