"""`rag_generate`: the policy model answers with the samples in the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.protocols import PolicyModel
from rttc_graph.run.answering import AnswerUpdate, answer, failed_answer, fitting_prompt
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.scope import RunScope
from rttc_graph.state import RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class RagGenerate:
    """Answers with as many of the nearest samples as fit."""

    policy_model: PolicyModel

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        """Add a candidate of arm `rag`."""
        fitted = await survive(
            fitting_prompt(self.policy_model, state["samples"], state, scope),
            deadline=scope.deadline,
        )
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
