"""Rewards of a panel's draws and of its steps.

Each draw is judged as its proposer's arm would have answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, cast

from rttc_graph.arms import ARMS
from rttc_graph.errors import BackendError, BudgetExceeded
from rttc_graph.protocols import (
    BegunAnswer,
    ProcessRewardModel,
    RewardModel,
    RewardRequest,
    checked_scores,
    checked_step_scores,
    measured_work,
    reward_requests,
)
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import samples_in_hand, standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.state import Arm, Attempt, Candidate, Drawn, RttcState


async def judged_draws(
    reward_model: RewardModel,
    drawn: Sequence[Drawn],
    panel: Panel,
    state: RttcState,
    scope: RunScope,
    notes: Notes,
) -> list[Drawn]:
    """Return the answers of a round with rewards, as far as the judge gives any."""
    since = time.monotonic()
    judged = await rewarded(reward_model, drawn, panel.drawn, state, scope, notes)
    if judged.arms:
        notes.add(
            "judged",
            since=since,
            reward_model=reward_model.name,
            arms=judged.arms,
            rewards=judged.rewards,
            tokens=judged.tokens,
            flops=judged.flops,
            samples=len(samples_in_hand(state)),
            tau_r=scope.settings.tau_r,
        )
    return judged.drawn


class Judged(NamedTuple):
    """Draws with their rewards, and what judging them took."""

    drawn: list[Drawn]
    arms: list[Arm]
    """Arm of each draw that was judged: of each with a text."""
    rewards: list[float | None]
    """Reward of each of these."""
    tokens: int | None
    flops: float | None


async def rewarded(
    reward_model: RewardModel,
    drawn: Sequence[Drawn],
    earlier: Sequence[Drawn],
    state: RttcState,
    scope: RunScope,
    notes: Notes,
) -> Judged:
    """Return draws with rewards, as far as the judge gives any; a failure is noted, nothing else.

    Args:
        reward_model: The judge.
        drawn: Answers to the question of `state`.
        earlier: Other answers to it, for a judge that compares.
        state: State of the run, with the question and the samples that go with the answers.
        scope: Scope of this step.
        notes: Get an entry where judging fails.
    """
    since, task = time.monotonic(), state["task"]
    judge = reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
    waiting = {n: candidate_of(one, state) for n, one in enumerate(drawn) if one["text"]}
    if not waiting:
        return Judged(list(drawn), [], [], None, None)
    others = [candidate_of(one, state) for one in earlier if one["text"]]
    requests = reward_requests(
        list(waiting.values()),
        of_run=[*state["candidates"], *others, *waiting.values()],
        samples=samples_in_hand(state),
    )
    query = standalone_query(state)
    with measured_work() as work:
        rewards, failure = await _scores(judge, query, requests, scope)
    if failure is not None:
        unjudged = rewards.count(None)
        notes.add_failure(failure, since=since, what="judge draws", draws=unjudged)
    given = dict(zip(waiting, rewards, strict=True))
    judged = [cast("Drawn", {**one, "reward": given.get(n)}) for n, one in enumerate(drawn)]
    return Judged(
        judged, [one["arm"] for one in waiting.values()], rewards, work.tokens, work.flops
    )


async def judged_steps(
    judge: ProcessRewardModel,
    answers: Sequence[BegunAnswer],
    state: RttcState,
    scope: RunScope,
    notes: Notes,
) -> list[float | None]:
    """Return the probability of the last step of each answer; `None` where the judge gives none."""
    if not answers:
        return []
    since = time.monotonic()
    with measured_work() as work:
        found = await survive(
            checked_step_scores(judge, standalone_query(state), answers), deadline=scope.deadline
        )
    if isinstance(found, Failure):
        notes.add_failure(found, since=since, what="judge steps", draws=len(answers))
        found = [(None,)] * len(answers)
    shares = [one[-1] for one in found]
    notes.add(
        "judged_steps",
        since=since,
        reward_model=judge.name,
        steps=len(answers),
        abstained=shares.count(None),
        tokens=work.tokens,
        flops=work.flops,
    )
    return shares


def candidate_of(one: Drawn, state: RttcState) -> Candidate:
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
        "adapter": adapted["key"] if adapted and by_adapter else None,
        "reused_tokens": one.get("reused_tokens", 0),
        "flops": one.get("flops"),
        "rests_on": [
            *(state["samples"][place]["id"] for place in one["shown"]),
            *(state["looked_up"][place]["id"] for place in one.get("inserted", ())),
            *learnt,
        ],
    }


def adapter_of(proposer: Attempt, state: RttcState) -> str | None:
    """Return the key of the adapter that this proposer answers with; `None` for the base model."""
    adapted = state.get("adapted")
    by_adapter = ARMS.attempts[proposer].finds == "adapter"
    return adapted["key"] if adapted and by_adapter else state.get("standing")


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
