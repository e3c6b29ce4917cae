"""`rag_generate`: the policy model answers with the samples in the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.errors import BudgetExceeded
from rttc_graph.protocols import PolicyModel
from rttc_graph.run.answering import AnswerUpdate, answer, failed_answer, room_for_answer
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.prompts import rag_messages
from rttc_graph.run.scope import RunScope
from rttc_graph.state import ChatTurn, RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class RagGenerate:
    """Answers with as many of the nearest samples as fit."""

    policy_model: PolicyModel

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        """Add a candidate of arm `rag`."""
        fitted = await survive(self._fitting_prompt(state, scope), deadline=scope.deadline)
        if isinstance(fitted, Failure):
            return failed_answer(fitted, state, scope, node="rag_generate", attempt="rag")
        messages, used = fitted
        dropped = len(state["samples"]) - used
        if dropped:
            note = entry("rag_generate", "shortened", since=scope.started, samples_dropped=dropped)
            state = {**state, "ledger": record(state, scope, [note])}
        return await answer(
            self.policy_model,
            messages,
            state,
            scope,
            node="rag_generate",
            attempt="rag",
            shown=state["samples"][:used],
        )

    async def _fitting_prompt(
        self, state: RttcState, scope: RunScope
    ) -> tuple[tuple[ChatTurn, ...], int]:
        """Return the prompt with the most samples that leave room for a whole answer."""
        wanted = scope.settings.max_new_tokens
        tried = len(state["samples"])
        fits, too_many = 0, tried + 1
        while fits + 1 < too_many:  # all at first, then halving: a long prompt is slow to count
            messages = self._prompt(state, tried)
            if await room_for_answer(self.policy_model, messages, scope) >= wanted:
                fits = tried
            else:
                too_many = tried
            tried = (fits + too_many) // 2
        if fits:
            return self._prompt(state, fits), fits
        raise BudgetExceeded(
            f"not one of {len(state['samples'])} samples fits beside the question and an answer of "
            f"max_new_tokens={wanted} tokens; lower it, or raise budget_tokens"
        )

    def _prompt(self, state: RttcState, used: int) -> tuple[ChatTurn, ...]:
        task = state["task"]
        return rag_messages(task["query"], state["samples"][:used], task["history"])
