"""`reward_judge`: scores the unscored candidates, writes the decision, and closes the run.

The run ends only here, so this is where the best answer is chosen, the query's state is
remembered, and the ledger is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from langchain_core.messages import AIMessage, AnyMessage
from typing_extensions import TypedDict

from rttc_graph.arms import FINISH
from rttc_graph.errors import NoAnswerError, RewardModelError
from rttc_graph.protocols import (
    LedgerStore,
    QueryState,
    QueryStateCache,
    RewardModel,
    RunRecord,
    reward_requests,
)
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.outcome import Outcome, outcome_of, told_in_ledger
from rttc_graph.run.policies import best_candidate, decide
from rttc_graph.run.scope import RunScope
from rttc_graph.run.survival import GRACE_SECONDS, Failure, survive
from rttc_graph.state import (
    Arm,
    Attempt,
    Candidate,
    Decision,
    LedgerEntry,
    RttcState,
    Source,
    Spent,
)

_STORE_GRACE_SECONDS = GRACE_SECONDS / 2
"""Time past the deadline in which a run with an answer may store what it learnt; short enough to
return the answer in time."""


class JudgeUpdate(TypedDict, total=False):
    """State update of `reward_judge`."""

    candidates: list[Candidate]
    decision: Decision
    attempt: Attempt
    answer: str
    arm: Arm
    reward: float | None
    accepted: bool
    tau_r: float
    calibrated: bool
    sources: list[Source]
    run_id: str
    seconds: float
    messages: list[AnyMessage]
    spent: Spent
    ledger: list[LedgerEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardJudge:
    """Judges what was answered and decides what comes next."""

    arms: frozenset[Attempt]
    reward_model: RewardModel
    cache: QueryStateCache | None = None
    ledger_store: LedgerStore | None = None

    async def __call__(self, state: RttcState, scope: RunScope) -> JudgeUpdate:
        """Fill in the rewards and write `decision`; with `finish`, also the answer.

        Raises:
            NoAnswerError: The run ends and no arm has produced an answer.
        """
        candidates, entries = await self._judge(state, scope)
        judged: RttcState = {
            **state,
            "candidates": candidates,
            "spent": added(state["spent"], since=scope.started),
        }
        choice = decide(judged, scope.settings, arms=self.arms)
        best = best_candidate(candidates)
        outcome = None
        if best is not None and choice.decision == FINISH:
            outcome = await self._outcome(judged, scope, best)
        entries.append(
            entry(
                "reward_judge",
                "decided",
                since=scope.started,
                decision=choice.decision,
                attempt=choice.attempt,
                reason=choice.reason,
                **(told_in_ledger(outcome) if outcome else {}),
            )
        )
        update: JudgeUpdate = {
            "candidates": candidates,
            "decision": choice.decision,
            "attempt": choice.attempt,
        }
        if best is not None:
            update |= {"answer": best["answer"], "arm": best["arm"], "reward": best["reward"]}
        if outcome is not None:
            update |= cast("JudgeUpdate", outcome)
        if choice.decision == FINISH:
            update |= await self._close(judged, scope, best, outcome, entries)
        spent = added(state["spent"], since=scope.started)
        ledger = record(state, scope, entries)
        return update | {"spent": spent, "seconds": spent["seconds"], "ledger": ledger}

    async def _judge(
        self, state: RttcState, scope: RunScope
    ) -> tuple[list[Candidate], list[LedgerEntry]]:
        waiting = [c for c in state["candidates"] if c["reward"] is None]
        if not waiting:
            return state["candidates"], []
        scored = await survive(self._score(state, scope, waiting), deadline=scope.deadline)
        if isinstance(scored, Failure):
            failed = entry("reward_judge", "failed", since=scope.started, error=scored.reason)
            return state["candidates"], [failed]
        rewards = iter(scored)
        candidates: list[Candidate] = [
            c if c["reward"] is not None else {**c, "reward": next(rewards)}
            for c in state["candidates"]
        ]
        judged = entry(
            "reward_judge",
            "judged",
            since=scope.started,
            reward_model=self.reward_model.name,
            arms=[c["arm"] for c in waiting],
            rewards=scored,
            tau_r=scope.settings.tau_r,
        )
        return candidates, [judged]

    async def _outcome(self, state: RttcState, scope: RunScope, best: Candidate) -> Outcome:
        """Return what is said of the answer; a judge that cannot tell is not calibrated."""
        task = state["task"]
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        calibrated = await survive(judge.is_calibrated(), deadline=scope.deadline)
        return outcome_of(
            best,
            state["candidates"],
            state["samples"],
            tau_r=scope.settings.tau_r,
            calibrated=calibrated is True,
            run_id=state["run_id"],
        )

    async def _score(
        self, state: RttcState, scope: RunScope, waiting: Sequence[Candidate]
    ) -> list[float]:
        task = state["task"]
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        requests = reward_requests(waiting, of_run=state["candidates"], samples=state["samples"])
        rewards = await judge.score(task["query"], requests)
        if len(rewards) != len(waiting):
            raise RewardModelError(
                f"{self.reward_model.name} gave {len(rewards)} rewards for {len(waiting)} answers"
            )
        for reward in rewards:
            if not (math.isfinite(reward) and 0 <= reward <= 1):
                raise RewardModelError(
                    f"{self.reward_model.name} gave reward {reward!r}, it must be in [0, 1]"
                )
        return [float(reward) for reward in rewards]  # numpy's numbers are no plain data

    async def _close(
        self,
        state: RttcState,
        scope: RunScope,
        best: Candidate | None,
        outcome: Outcome | None,
        entries: list[LedgerEntry],
    ) -> JudgeUpdate:
        """Remember and record the run; nothing that fails here costs the answer."""
        if best is None or outcome is None:
            raise NoAnswerError(_why_no_answer(state), ledger=[*state["ledger"], *entries])
        if self.cache and scope.settings.use_cache and state["samples"]:
            entries.extend(await self._remember(self.cache, state, scope, best))
        if self.ledger_store:
            stored = await survive(
                self.ledger_store.append(_run_record(state, scope, best, outcome, entries)),
                deadline=scope.deadline,
                grace_seconds=_STORE_GRACE_SECONDS,
            )
            if isinstance(stored, Failure):
                entries.append(
                    entry(
                        "reward_judge",
                        "failed",
                        since=scope.started,
                        what="store the ledger",
                        error=stored.reason,
                    )
                )
        if not state["task"]["from_messages"]:
            return {}
        said = AIMessage(best["answer"], name="rttc", response_metadata={**outcome})
        return {"messages": [said]}

    async def _remember(
        self, cache: QueryStateCache, state: RttcState, scope: RunScope, best: Candidate
    ) -> list[LedgerEntry]:
        """Keep the adapter that gave the best answer, drop one that did not raise the reward."""
        since = scope.started
        rejected = _rejected_adapter(state, best)
        done = await survive(
            _store_state(cache, _query_state(state, scope, best), rejected),
            deadline=scope.deadline,
            grace_seconds=_STORE_GRACE_SECONDS,
        )
        if isinstance(done, Failure):
            return [
                entry("reward_judge", "failed", since=since, what="remember", error=done.reason)
            ]
        remembered = entry("reward_judge", "remembered", since=since, adapter_key=best["adapter"])
        if rejected is None:
            return [remembered]
        return [remembered, entry("reward_judge", "discarded", since=since, adapter_key=rejected)]


async def _store_state(cache: QueryStateCache, kept: QueryState, rejected: str | None) -> None:
    await cache.remember(kept)
    if rejected is not None:
        await cache.discard_adapter(rejected)


def _query_state(state: RttcState, scope: RunScope, best: Candidate) -> QueryState:
    return QueryState(
        query=state["task"]["query"],
        vector=state["vector"],
        domain=state["task"]["domain"],
        tenant=scope.settings.tenant,
        k=scope.settings.k,
        choice=scope.settings.samples_choice,
        samples=state["samples"],
        revision=state["revision"] or 0,
        adapter=best["adapter"],
        training_fingerprint=scope.settings.training_fingerprint,
        reward=best["reward"],
    )


def _rejected_adapter(state: RttcState, best: Candidate) -> str | None:
    """Return the adapter that this run trained, if another candidate is at least as good."""
    adapted = state.get("adapted")
    if adapted is None or adapted["origin"] != "trained" or best["reward"] is None:
        return None
    answered = any(
        c["adapter"] == adapted["key"] and c["reward"] is not None for c in state["candidates"]
    )
    return adapted["key"] if answered and best["adapter"] != adapted["key"] else None


def _run_record(
    state: RttcState,
    scope: RunScope,
    best: Candidate,
    outcome: Outcome,
    entries: list[LedgerEntry],
) -> RunRecord:
    settings = scope.settings
    return RunRecord(
        tenant=settings.tenant,
        domain=state["task"]["domain"],
        query=state["task"]["query"],
        policy=settings.policy,
        answer=best["answer"],
        candidate=best,
        **outcome,
        seconds=added(state["spent"], since=scope.started)["seconds"],
        tokens=state["spent"]["tokens"],
        entries=[*state["ledger"], *entries],
    )


def _why_no_answer(state: RttcState) -> str:
    errors = [
        f"{e['detail'].get('arm') or e['detail'].get('what') or e['node']}: {e['detail']['error']}"
        for e in state["ledger"]
        if e["event"] == "failed"
    ]
    return "no arm produced an answer (" + ("; ".join(errors) or "nothing was tried") + ")"
