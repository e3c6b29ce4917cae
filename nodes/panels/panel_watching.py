"""An answer that is watched while it is written, and stopped where something is to be looked up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from rttc_graph.nodes.panels.panel_continuing import prompt_tokens
from rttc_graph.nodes.panels.panel_drawing import PanelDrawing
from rttc_graph.nodes.panels.panel_judging import judged_steps
from rttc_graph.nodes.panels.panel_steps import step_cut
from rttc_graph.protocols import (
    BegunAnswer,
    Doubt,
    Generation,
    GenerationRequest,
    PolicyModel,
    ProcessRewardModel,
)
from rttc_graph.run.answering import generated
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.search.strategy import Proposal
from rttc_graph.search.thinking.lookup_text import CLOSING, INSTRUCTION, OPENING, open_query
from rttc_graph.state import Drawn, Halt, RttcState


def told_to_look_up(scope: RunScope) -> RunScope:
    """Return the scope of an answer that may ask: its system prompt says how."""
    settings = scope.settings
    if "tag" not in settings.search.lookup_on:
        return scope
    told = f"{settings.system_prompt}\n\n{INSTRUCTION}"
    return replace(scope, settings=settings.model_copy(update={"system_prompt": told}))


def with_part_of_samples(state: RttcState, scope: RunScope) -> RttcState:
    """Return the state with half of `k` samples, the nearest: look-ups may show the others."""
    return {**state, "samples": state["samples"][: (scope.settings.k + 1) // 2]}


def asked_with_stops(
    request: GenerationRequest, scope: RunScope, *, asks: bool
) -> GenerationRequest:
    """Return a request that ends before a tag.

    Args:
        request: What is asked for.
        scope: Scope of this step.
        asks: Whether the model may ask: then the answer ends behind what it asks for, and the
            place where it is unsure is told.
    """
    search = scope.settings.search
    doubts = asks and "confidence" in search.lookup_on
    return replace(
        request,
        stop=(*request.stop, CLOSING if asks else OPENING),
        doubt=Doubt(window=search.lookup_window, least_logprob=search.lookup_logprob)
        if doubts
        else None,
    )


def halt_of(one: Generation, request: GenerationRequest) -> Halt | None:
    """Return where an answer is to be gone on from with a look-up; `None` for nowhere."""
    begun = len(request.answer_prefix)
    found = open_query(one.text, behind=begun)
    if one.doubt_at is not None and (found is None or one.doubt_at < found[0]):
        stopped = one.finish_reason == "step"
        text = one.text[: found[0]] if found else one.text
        return {
            "trigger": "confidence",
            "at": _word_border(text, one.doubt_at, begun),
            "query": last_step(text),
            "is_whole": not stopped and found is None,
        }
    if found is None:
        return None
    at, query = found
    return {"trigger": "tag", "at": at, "query": query, "is_whole": False}


def with_doubted_whole(one: Drawn, scope: RunScope, *, begun: int = 0) -> Drawn:
    """Return a draw that is looked up as a whole, where it is judged below τr and nothing else is.

    Args:
        one: A draw with its reward.
        scope: Scope of this step.
        begun: Number of characters that it began with: what is found goes behind them.
    """
    settings, reward = scope.settings, one["reward"]
    wanted = "reward" in settings.search.lookup_on
    is_whole = one["finish_reason"] in ("stop", "length") and "halt" not in one
    if not wanted or not is_whole or reward is None or reward >= settings.tau_r:
        return one
    query = last_step(one["text"])
    return {**one, "halt": {"trigger": "reward", "at": begun, "query": query, "is_whole": True}}


def _word_border(text: str, at: int, first: int) -> int:
    """Return the place behind the last whole word before a place, and not before the first one."""
    while at > first and at < len(text) and not text[at].isspace() and not text[at - 1].isspace():
        at -= 1
    return at


def last_step(text: str) -> str:
    """Return the last line of an answer that says anything, on one line."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelWatching:
    """What draws the answer that is watched."""

    policy_model: PolicyModel
    step_judge: ProcessRewardModel | None = None
    """Judges the steps; `None` where nobody does."""

    async def watched(
        self, proposal: Proposal, panel: Panel, state: RttcState, scope: RunScope, notes: Notes
    ) -> list[Drawn]:
        """Return the answer as one draw, with the place where it was stopped; empty for no room.

        Raises:
            BudgetExceeded: There is no room for it.
            ConfigurationError: The proposal makes no sense.
            PolicyModelError: The model failed.
        """
        told, shown = told_to_look_up(scope), with_part_of_samples(state, scope)
        drawing, since = PanelDrawing(self.policy_model), time.monotonic()
        rows = await drawing.rows(proposal, panel, shown, told, notes)
        if not rows:
            return []
        row = rows[0]
        request = asked_with_stops(row.request, scope, asks=True)
        if request.doubt is not None:
            request = replace(request, doubt=replace(request.doubt, halts=True))
        judge = self.step_judge if "reward" in scope.settings.search.lookup_on else None
        if judge is None:
            [made] = await generated(self.policy_model, [request], deadline=scope.deadline)
            halt = halt_of(made, request)
        else:
            made, halt = await self._by_steps(judge, request, state, scope, notes)
        reason = proposal.reason
        [one] = await drawing.drawn([row], [made], shown, notes, since=since, reason=reason)
        return [with_halt(one, halt)]

    async def _by_steps(
        self,
        judge: ProcessRewardModel,
        request: GenerationRequest,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> tuple[Generation, Halt | None]:
        """Return an answer that is written and judged step by step, up to where it is stopped.

        Each step reads the prompt anew. Where the budget has no room for a step and for the rest
        behind it, the rest is written at once.
        """
        steps, made, shares = list[str](), list[Generation](), list[float | None]()
        room, begun, cut = request.max_new_tokens, request.answer_prefix, step_cut(scope)
        left = (await tokens_left(self.policy_model, scope.allowance, scope.settings)).tokens
        while True:
            asked = replace(request, answer_prefix=begun, max_new_tokens=room)
            prompt = await prompt_tokens(self.policy_model, asked)
            if 2 * (prompt + cut.most_tokens) + room <= left:
                asked = replace(asked, step=cut, tells_state=True)
            elif prompt >= left:
                return _joined(made), None
            else:
                asked = replace(asked, max_new_tokens=min(room, left - prompt))
            [one] = await generated(self.policy_model, [asked], deadline=scope.deadline)
            made.append(one)
            room -= one.completion_tokens
            left -= one.prompt_tokens + one.completion_tokens
            halt = halt_of(one, asked)
            goes_on = one.finish_reason == "step" and halt is None and room > 0
            if not goes_on:
                return _joined(made), halt
            steps.append(one.text[len(begun) :])
            shares.append(await self._judged(judge, steps, asked, made, state, scope, notes))
            if _falls(shares, scope.settings.search.lookup_fall):
                query = " ".join(steps[-1].split())
                at = len(begun)
                fallen: Halt = {"trigger": "reward", "at": at, "query": query, "is_whole": False}
                return _joined(made), fallen
            begun = one.text

    async def _judged(
        self,
        judge: ProcessRewardModel,
        steps: Sequence[str],
        asked: GenerationRequest,
        made: Sequence[Generation],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> float | None:
        answer = BegunAnswer(
            steps=tuple(steps),
            known=len(steps) - 1,
            messages=asked.messages,
            adapter=asked.adapter,
            state=made[-1].state,
            logprobs=tuple(one.mean_logprob for one in made),
        )
        (share,) = await judged_steps(judge, [answer], state, scope, notes)
        return share


def with_halt(one: Drawn, halt: Halt | None) -> Drawn:
    """Return a draw with the place where it is to be gone on from; it votes only if it is whole."""
    if halt is None:
        return one
    vote = one["vote"] if halt["is_whole"] else None
    return cast("Drawn", {**one, "halt": halt, "vote": vote})


def _falls(shares: Sequence[float | None], fall: float) -> bool:
    last = shares[-1]
    before = next((p for p in reversed(shares[:-1]) if p is not None), None)
    return last is not None and before is not None and before - last >= fall


def _joined(made: Sequence[Generation]) -> Generation:
    """Return the steps of one answer as one generation; each step counts what it has read."""
    tokens = sum(one.completion_tokens for one in made)
    known = [one for one in made if one.mean_logprob is not None]
    weighed = sum((one.mean_logprob or 0.0) * one.completion_tokens for one in known)
    counted = sum(one.completion_tokens for one in known)
    return replace(
        made[-1],
        prompt_tokens=sum(one.prompt_tokens for one in made),
        completion_tokens=tokens,
        reused_tokens=sum(one.reused_tokens for one in made),
        mean_logprob=weighed / counted if counted else None,
        doubt_at=None,
    )
