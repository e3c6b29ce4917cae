"""`reward_judge`: scores the unscored candidates, writes the decision, and closes the run.

The run ends only here, so this is where the best answer is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from langchain_core.messages import AIMessage, AnyMessage
from typing_extensions import TypedDict

from rttc_graph.arms import FINISH, JUDGE
from rttc_graph.protocols import RewardModel, checked_scores, measured_work, reward_requests
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.budget import added
from rttc_graph.run.closing import Closing, no_answer
from rttc_graph.run.ledger import Notes, judging_flops, record
from rttc_graph.run.outcome import Outcome, run_outcome, told_in_ledger
from rttc_graph.run.policies import decide, first_difficulty
from rttc_graph.run.prompts import samples_in_hand, standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.run.tau_r import best_candidate
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


class JudgeUpdate(TypedDict, total=False):
    """State update of `reward_judge`."""

    candidates: list[Candidate]
    decision: Decision
    attempt: Attempt
    difficulty: float | None
    answer: str
    arm: Arm
    reward: float | None
    accepted: bool
    tau_r: float
    declined: bool
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
    closing: Closing

    async def __call__(self, state: RttcState, scope: RunScope) -> JudgeUpdate:
        """Fill in the rewards and write `decision`; with `finish`, also the answer.

        Raises:
            NoAnswerError: The run ends and no arm has produced an answer.
        """
        notes = Notes(JUDGE)
        candidates = await self._judge(state, scope, notes)
        difficulty = _difficulty(state, candidates)
        judged: RttcState = {
            **state,
            "candidates": candidates,
            "difficulty": difficulty,
            "spent": added(state["spent"], since=scope.started, flops=judging_flops(notes)),
        }
        choice = decide(judged, scope.settings, arms=self.arms)
        best = best_candidate(candidates)
        outcome = None
        if best is not None and choice.decision == FINISH:
            outcome = await self._outcome(judged, scope, best)
        notes.add(
            "decided",
            since=scope.started,
            decision=choice.decision,
            reason=choice.reason,
            **({} if choice.decision == FINISH else {"attempt": choice.attempt}),
            **(told_in_ledger(outcome) if outcome else {}),
        )
        update: JudgeUpdate = {
            "candidates": candidates,
            "decision": choice.decision,
            "difficulty": difficulty,
        }
        if choice.decision != FINISH:
            update["attempt"] = choice.attempt
        if best is not None:
            update |= {"answer": best["answer"], "arm": best["arm"], "reward": best["reward"]}
        if choice.decision == FINISH:
            if best is None or outcome is None:
                raise no_answer(judged, notes)
            update |= cast("JudgeUpdate", outcome)
            closed: RttcState = {**state, "candidates": candidates}
            await self.closing.close(closed, scope, best, outcome, notes)
            if state["task"]["from_messages"]:
                told = {name: value for name, value in outcome.items() if name != "answer"}
                told["finish_reason"] = "stop" if outcome["declined"] else best["finish_reason"]
                message = AIMessage(outcome["answer"], name="rttc", response_metadata=told)
                update["messages"] = [message]
        spent = added(state["spent"], since=scope.started, flops=judging_flops(notes))
        ledger = record(state, scope, notes.entries)
        return update | {"spent": spent, "seconds": spent["seconds"], "ledger": ledger}

    async def _judge(self, state: RttcState, scope: RunScope, notes: Notes) -> list[Candidate]:
        """Return the candidates with rewards, as far as the judge gives any."""
        places = _to_judge(state, sees_evidence=self.reward_model.sees_evidence)
        if not places:
            return state["candidates"]
        waiting = [state["candidates"][n] for n in places]
        with measured_work() as work:
            scored = await survive(self._score(state, scope, waiting), deadline=scope.deadline)
        if isinstance(scored, Failure):
            notes.add_failure(scored, since=scope.started)
            return state["candidates"]
        notes.add(
            "judged",
            since=scope.started,
            reward_model=self.reward_model.name,
            arms=[c["arm"] for c in waiting],
            rewards=scored,
            tokens=work.tokens,
            flops=work.flops,
            samples=len(samples_in_hand(state)),
            tau_r=scope.settings.tau_r,
        )
        rewards = dict(zip(places, scored, strict=True))
        return [
            {**c, "reward": rewards.get(n, c["reward"])} for n, c in enumerate(state["candidates"])
        ]

    async def _outcome(self, state: RttcState, scope: RunScope, best: Candidate) -> Outcome:
        """Return what is said of the answer; a judge that cannot tell is not calibrated."""
        task = state["task"]
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        calibrated = await survive(judge.is_calibrated(), deadline=scope.deadline)
        return run_outcome(best, state, scope.settings, calibrated=calibrated is True)

    async def _score(
        self, state: RttcState, scope: RunScope, waiting: Sequence[Candidate]
    ) -> list[float]:
        task = state["task"]
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        requests = reward_requests(
            waiting, of_run=state["candidates"], samples=samples_in_hand(state)
        )
        return await checked_scores(judge, standalone_query(state), requests)


def _difficulty(state: RttcState, candidates: Sequence[Candidate]) -> float | None:
    """Return the difficulty of the question, which stays as it was first known."""
    known, plan = state.get("difficulty"), state.get("plan")
    return known if known is not None or plan is None else first_difficulty(plan, candidates)


def _to_judge(state: RttcState, *, sees_evidence: bool) -> list[int]:
    """Return the places of the candidates to judge: the unjudged ones.

    All of them, once, when samples have come in hand since the last judgement and the judge looks
    at them: rewards are compared, so they must rest on the same evidence.
    """
    candidates = state["candidates"]
    before = [e for e in state["ledger"] if e["event"] == "judged"]
    if sees_evidence and state["samples"] and before and not before[-1]["detail"].get("samples"):
        return list(range(len(candidates)))
    return [n for n, c in enumerate(candidates) if c["reward"] is None]
