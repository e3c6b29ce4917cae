"""Draws of a panel: their prompts, within the budget, and the answers to them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rttc_graph.arms import ARMS
from rttc_graph.errors import BudgetExceeded, PolicyModelError
from rttc_graph.nodes.panels.panel_judging import adapter_of
from rttc_graph.protocols import Generation, GenerationRequest, PolicyModel
from rttc_graph.run.answering import fitting_prompt, no_room
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import direct_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.search.panel import Panel
from rttc_graph.search.sample_subsets import draw_seed, sample_subset
from rttc_graph.state import Attempt, ChatTurn, Drawn, RttcState
from rttc_graph.support.thinking import spoken


class DrawRow(NamedTuple):
    """One draw that is asked for."""

    proposer: Attempt
    shown: tuple[int, ...]
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class PanelDrawing:
    """What draws the answers of a panel."""

    policy_model: PolicyModel

    async def rows(
        self,
        order: Sequence[Attempt],
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[DrawRow]:
        """Return as many draws as the budget has room for, were each of them as long as it may be.

        The first draw of a panel is asked as a single answer would be: greedy by default, and
        shorter where the budget wants it.
        """
        settings, context = scope.settings, await self.policy_model.context_tokens()
        left, rows, too_long = (
            scope.allowance.tokens,
            list[DrawRow](),
            dict[Attempt, BudgetExceeded](),
        )
        turns = Counter(one["proposer"] for one in panel.drawn)
        for wanted in order:
            found = await self._prompt_of((wanted, *panel.proposers), turns, too_long, state, scope)
            if found is None:
                break
            proposer, messages, shown = found
            number = len(panel.drawn) + len(rows)
            prompt = await self.policy_model.count_tokens(messages)
            room = settings.max_new_tokens
            if context is not None:
                room = min(room, context - prompt)
            if number == 0 and (room := min(room, left - prompt)) < 1:
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
            )
            rows.append(DrawRow(proposer, shown, request))
        for proposer, error in too_long.items():
            if not rows and not panel.drawn:
                raise error
            notes.add(
                "skipped",
                since=scope.started,
                arm=state["attempt"],
                draws=proposer,
                reason=str(error),
            )
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
        made = await self.policy_model.generate(
            [row.request for row in rows], deadline=scope.deadline
        )
        if len(made) != len(rows):
            raise PolicyModelError(
                f"{self.policy_model.name} returned {len(made)} answers to {len(rows)} prompts"
            )
        numeric = wants_number(sample["answer"] for sample in solved(state["samples"]))
        drawn = [_drawn(row, one, numeric) for row, one in zip(rows, made, strict=True)]
        notes.add(
            "drawn",
            since=since,
            arm=state["attempt"],
            draws=dict(Counter(row.proposer for row in rows)),
            prompt_tokens=sum(one["prompt_tokens"] for one in drawn),
            completion_tokens=sum(one["completion_tokens"] for one in drawn),
            reason=reason,
        )
        return drawn

    async def _prompt_of(
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
                return proposer, *await self._prompt(proposer, turns[proposer], state, scope)
            except BudgetExceeded as exc:
                too_long[proposer] = exc
        return None

    async def _prompt(
        self, proposer: Attempt, turn: int, state: RttcState, scope: RunScope
    ) -> tuple[tuple[ChatTurn, ...], tuple[int, ...]]:
        """Return the prompt of a draw, and the places of the samples in it."""
        task, samples = state["task"], state["samples"]
        if ARMS.attempts[proposer].finds != "samples":
            return direct_messages(task["query"], task["history"], scope.settings.prompts), ()
        places = sample_subset(len(samples), turn=turn, seed=scope.settings.seed)
        messages, used = await fitting_prompt(
            self.policy_model, [samples[place] for place in places], state, scope
        )
        return messages, places[:used]


def _drawn(row: DrawRow, made: Generation, numeric: bool) -> Drawn:
    text = spoken(made.text).answer
    return {
        "proposer": row.proposer,
        "text": text,
        "vote": read_vote(text, finish_reason=made.finish_reason, numeric=numeric),
        "reward": None,
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "mean_logprob": made.mean_logprob,
        "finish_reason": made.finish_reason,
        "shown": list(row.shown),
    }
