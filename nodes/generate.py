"""`generate`: the policy model answers the query, with an adapter if the attempt calls for one."""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.protocols import PolicyModel
from rttc_graph.run.answering import AnswerUpdate, answer
from rttc_graph.run.prompts import direct_messages
from rttc_graph.run.scope import RunScope
from rttc_graph.state import RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Answers with the plain model or with the adapter in `adapted`."""

    policy_model: PolicyModel

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        """Add a candidate of arm `direct` or `ttt`."""
        attempt = state["attempt"]
        return await answer(
            self.policy_model,
            direct_messages(
                state["task"]["query"], state["task"]["history"], scope.settings.prompts
            ),
            state,
            scope,
            node="generate",
            attempt=attempt,
            adapted=None if attempt == "direct" else state.get("adapted"),
        )
