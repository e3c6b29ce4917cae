"""`panel_round`: draws one round of a panel and judges it, until the strategy keeps an answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, JUDGE, RETRIEVE, proposer_names
from rttc_graph.errors import BackendError, BudgetExceeded, ConfigurationError, PolicyModelError
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    KnowledgeBase,
    PolicyModel,
    RewardModel,
    RewardRequest,
    checked_scores,
    reward_requests,
)
from rttc_graph.run.answering import answered, failed_answer, fitting_prompt, no_room
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import NOTHING_SPENT, added
from rttc_graph.run.ledger import Notes, record
from rttc_graph.run.prompts import direct_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.search.panel import Panel, draws_in_order, standings, without_needless_texts
from rttc_graph.search.sample_subsets import draw_seed, sample_subset
from rttc_graph.search.strategies import strategy_of
from rttc_graph.search.strategy import Choice, without_votes
from rttc_graph.state import (
    Attempt,
    Candidate,
    ChatTurn,
    Decision,
    Drawn,
    LedgerEntry,
    PanelState,
    RttcState,
    Spent,
)
from rttc_graph.support.thinking import spoken

NODE = "panel_round"

MAX_ROUNDS = 16
"""Most rounds of a panel: each is a step of the graph, and hosts limit the steps of a run."""

SHOWN_ANSWERS = 5
"""Answers, the ones with the most votes, that the event of a round lists."""


class PanelUpdate(TypedDict, total=False):
    """State update of `panel_round`."""

    panel: PanelState
    candidates: list[Candidate]
    tried: list[Attempt]
    decision: Decision
    spent: Spent
    ledger: list[LedgerEntry]


class _Row(NamedTuple):
    """One draw that is asked for."""

    proposer: Attempt
    shown: tuple[int, ...]
    request: GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRound:
    """Draws a round of a panel, then another one or the answer to keep."""

    policy_model: PolicyModel
    reward_model: RewardModel
    knowledge_base: KnowledgeBase | None = None
    """Where samples come from; `None` for a graph that retrieves none."""

    async def __call__(self, state: RttcState, scope: RunScope) -> PanelUpdate:
        """Leave the panel with one more round, or add a candidate and let it be judged.

        Samples that the panel is to draw from are retrieved first.
        """
        if self._lacks_samples(state, scope):
            return {"decision": RETRIEVE}
        notes, before = Notes(NODE), _panel_state(state)
        panel = await survive(
            self._panel(before, state, scope), deadline=max(scope.deadline, _soon())
        )
        if isinstance(panel, Failure):
            return _no_answer(panel, state, scope, notes)
        made = await survive(
            self._round(panel, before, state, scope, notes),
            deadline=scope.deadline,
            grace_seconds=GRACE_SECONDS,
        )
        if isinstance(made, Panel):
            return await _go_on(made, before, state, scope, notes)
        if isinstance(made, Failure) and panel.drawn:
            notes.add_failure(made, since=scope.started, arm=state["attempt"])
            made = "a round failed"
        return await _finish(panel, made, before, state, scope, notes)

    def _lacks_samples(self, state: RttcState, scope: RunScope) -> bool:
        if self.knowledge_base is None or state["retrieved"]:
            return False
        wanted = _wanted(scope)[: scope.settings.search.n]
        return any(ARMS.attempts[name].finds is not None for name in wanted)

    async def _round(
        self,
        panel: Panel,
        before: PanelState,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel | str:
        """Return the panel with one more round, or why there is none.

        Raises:
            BudgetExceeded: There is no room for the first draw.
            ConfigurationError: The strategy proposes what cannot be drawn.
            PolicyModelError: The model failed.
        """
        if reason := _end(before, scope):
            return reason
        proposal = strategy_of(state["attempt"]).propose(panel)
        if unknown := sorted(proposal.draws.keys() - set(panel.proposers)):
            raise ConfigurationError(
                f"strategy {state['attempt']!r} draws from {unknown}, but there are only "
                f"{list(panel.proposers)}"
            )
        order = draws_in_order(proposal.draws, panel.proposers)[: panel.left]
        if not order:
            return proposal.reason
        rows = await self._rows(order, panel, state, scope, notes)
        if not rows:
            return f"budget_tokens={scope.settings.budget_tokens} has no room for another draw"
        drawn = await self._draw(rows, state, scope, notes, reason=proposal.reason)
        drawn = await self._judged(drawn, panel, state, scope, notes)
        return replace(panel, drawn=(*panel.drawn, *drawn))

    async def _panel(self, before: PanelState, state: RttcState, scope: RunScope) -> Panel:
        """Return the panel as it is.

        Raises:
            ConfigurationError: There is nothing to draw from.
        """
        adapted = state.get("adapted")
        there = {
            None,
            *(["samples"] if state["samples"] else []),
            *(["adapter"] if adapted else []),
        }
        proposers = [name for name in _wanted(scope) if ARMS.attempts[name].finds in there]
        if not proposers:
            raise ConfigurationError(
                f"there is nothing to draw from: search_from={','.join(_wanted(scope))}, and "
                "neither samples nor an adapter are in hand"
            )
        judge = self.reward_model.within(
            tenant=scope.settings.tenant, domain=state["task"]["domain"]
        )
        calibrated = await survive(judge.is_calibrated(), deadline=scope.deadline)
        return Panel(
            size=scope.settings.search.n,
            proposers=tuple(proposers),
            drawn=tuple(before["drawn"]),
            tau_r=scope.settings.tau_r,
            calibrated=calibrated is True,
        )

    async def _rows(
        self,
        order: Sequence[Attempt],
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[_Row]:
        """Return as many draws as the budget has room for, were each of them as long as it may be.

        The first draw of a panel is asked as a single answer would be: greedy by default, and
        shorter where the budget wants it.
        """
        settings, context = scope.settings, await self.policy_model.context_tokens()
        left, rows, too_long = scope.allowance.tokens, list[_Row](), dict[Attempt, BudgetExceeded]()
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
                adapter=_adapter(proposer, state),
            )
            rows.append(_Row(proposer, shown, request))
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
            return direct_messages(task["query"], task["history"]), ()
        places = sample_subset(len(samples), turn=turn, seed=scope.settings.seed)
        messages, used = await fitting_prompt(
            self.policy_model, [samples[place] for place in places], state, scope
        )
        return messages, places[:used]

    async def _draw(
        self, rows: Sequence[_Row], state: RttcState, scope: RunScope, notes: Notes, *, reason: str
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

    async def _judged(
        self,
        drawn: Sequence[Drawn],
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[Drawn]:
        """Return the answers of a round with rewards, as far as the judge gives any."""
        since, task = time.monotonic(), state["task"]
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        waiting = {n: _candidate(one, state) for n, one in enumerate(drawn) if one["text"]}
        if not waiting:
            return list(drawn)
        earlier = [_candidate(one, state) for one in panel.drawn if one["text"]]
        requests = reward_requests(
            list(waiting.values()),
            of_run=[*state["candidates"], *earlier, *waiting.values()],
            samples=state["samples"],
        )
        rewards, failure = await _scores(judge, task["query"], requests, scope)
        if failure is not None:
            unjudged = rewards.count(None)
            notes.add_failure(failure, since=since, what="judge draws", draws=unjudged)
        notes.add(
            "judged",
            since=since,
            reward_model=self.reward_model.name,
            arms=[one["arm"] for one in waiting.values()],
            rewards=rewards,
            samples=len(state["samples"]),
            tau_r=scope.settings.tau_r,
        )
        given = dict(zip(waiting, rewards, strict=True))
        return [cast("Drawn", {**one, "reward": given.get(n)}) for n, one in enumerate(drawn)]


async def _scores(
    judge: RewardModel, query: str, requests: Sequence[RewardRequest], scope: RunScope
) -> tuple[list[float | None], Failure | None]:
    """Return the rewards of answers, and the first failure where some have none.

    They are asked for in one call. If that fails, and not for want of time or because the judge is
    down, each answer is asked for alone, so that one that cannot be judged costs no other its own.
    """
    scored = await survive(checked_scores(judge, query, requests), deadline=scope.deadline)
    if not isinstance(scored, Failure):
        return [*scored], None
    error = scored.error
    is_down = isinstance(error, BackendError) and error.retryable
    if len(requests) == 1 or is_down or isinstance(error, BudgetExceeded):
        return [None] * len(requests), scored
    each = [await _scores(judge, query, [request], scope) for request in requests]
    failures = [failure for _, failure in each if failure is not None]
    return [reward for rewards, _ in each for reward in rewards], next(iter(failures), None)


def _wanted(scope: RunScope) -> tuple[Attempt, ...]:
    return scope.settings.search.from_ or proposer_names()


def _panel_state(state: RttcState) -> PanelState:
    """Return the panel of this attempt, a new one where there is none yet."""
    panel = state.get("panel")
    if panel is not None and panel["attempt"] == state["attempt"]:
        return panel
    return {"attempt": state["attempt"], "drawn": [], "rounds": 0, "seconds": 0.0}


def _end(before: PanelState, scope: RunScope) -> str | None:
    """Return why no further round is drawn, whatever the strategy says."""
    if not before["drawn"]:
        return None
    if before["rounds"] >= MAX_ROUNDS:
        return f"{MAX_ROUNDS} rounds are drawn"
    return "budget of seconds is spent" if scope.allowance.seconds <= 0 else None


def _adapter(proposer: Attempt, state: RttcState) -> str | None:
    adapted = state.get("adapted")
    return adapted["key"] if adapted and ARMS.attempts[proposer].finds == "adapter" else None


def _drawn(row: _Row, made: Generation, numeric: bool) -> Drawn:
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


def _candidate(one: Drawn, state: RttcState) -> Candidate:
    """Return a draw as its proposer's arm would have answered, for the judge."""
    adapted = state.get("adapted")
    by_adapter = ARMS.attempts[one["proposer"]].finds == "adapter"
    learnt = adapted.get("rests_on", []) if adapted and by_adapter else []
    return {
        "arm": ARMS.of_attempt(one["proposer"]).name,
        "answer": one["text"],
        "reward": one["reward"],
        "seconds": 0.0,
        "prompt_tokens": one["prompt_tokens"],
        "completion_tokens": one["completion_tokens"],
        "trained_tokens": 0,
        "mean_logprob": one["mean_logprob"],
        "finish_reason": one["finish_reason"],
        "adapter": _adapter(one["proposer"], state),
        "rests_on": [*(state["samples"][place]["id"] for place in one["shown"]), *learnt],
    }


async def _go_on(
    panel: Panel, before: PanelState, state: RttcState, scope: RunScope, notes: Notes
) -> PanelUpdate:
    """Return the update of a round; the next step draws another one or finishes."""
    new = panel.drawn[len(before["drawn"]) :]
    choice = await _chosen(panel, state)
    chosen = None if isinstance(choice, Failure) else choice
    kept = without_needless_texts(panel, chosen=chosen.place if chosen else None)
    after: PanelState = {
        "attempt": state["attempt"],
        "drawn": list(kept),
        "rounds": before["rounds"] + 1,
        "seconds": before["seconds"] + _elapsed(scope),
    }
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
            "rewards": [one["reward"] for one in new],
            "tokens": _tokens(panel.drawn),
            "seconds": after["seconds"],
        }
    )
    return {
        "panel": after,
        "decision": NODE,
        "spent": added(state["spent"], since=scope.started, tokens=_tokens(new)),
        "ledger": record(state, scope, notes.entries),
    }


async def _finish(
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
        return _no_answer(why, state, scope, notes)
    choice = await _chosen(panel, state)
    if isinstance(choice, Failure):
        notes.add_failure(choice, since=scope.started, arm=state["attempt"])
        choice = await survive(_called(without_votes, panel), deadline=_soon())
    if isinstance(choice, Failure):
        return _no_answer(choice, state, scope, notes)
    kept = panel.drawn[choice.place]
    seconds = before["seconds"] + _elapsed(scope)
    notes.add(
        "stopped",
        since=scope.started,
        arm=state["attempt"],
        reason=why,
        rounds=before["rounds"],
        draws=dict(Counter(one["proposer"] for one in panel.drawn)),
        answers=len(standings(panel)),
        votes=choice.votes,
        tokens=_tokens(panel.drawn),
    )
    candidate: Candidate = {
        **_candidate(kept, state),
        "arm": ARMS.of_attempt(state["attempt"]).name,
        "seconds": seconds,
        "prompt_tokens": sum(one["prompt_tokens"] for one in panel.drawn),
        "completion_tokens": sum(one["completion_tokens"] for one in panel.drawn),
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
    return {**update, "panel": {**before, "seconds": seconds}, "decision": JUDGE}


def _no_answer(failure: Failure, state: RttcState, scope: RunScope, notes: Notes) -> PanelUpdate:
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

    return await survive(_called(choose, panel), deadline=_soon())


async def _called(decide: Callable[[Panel], Choice], panel: Panel) -> Choice:
    return decide(panel)


def _soon() -> float:
    """Return a deadline for a decision, which the budget of seconds never takes away."""
    return time.monotonic() + GRACE_SECONDS


def _tokens(drawn: Sequence[Drawn]) -> int:
    return sum(one["prompt_tokens"] + one["completion_tokens"] for one in drawn)


def _elapsed(scope: RunScope) -> float:
    return added(NOTHING_SPENT, since=scope.started)["seconds"]
