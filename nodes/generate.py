"""`generate`: the policy model answers the query, with an adapter if the attempt calls for one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from rttc_graph.errors import BudgetExceeded
from rttc_graph.nodes.view_answers import voted_in_views
from rttc_graph.protocols import PolicyModel
from rttc_graph.run.answering import AnswerUpdate, answer, fitting_prompt
from rttc_graph.run.prompts import direct_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.state import RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Answers with the plain model or with the adapter in `adapted`."""

    policy_model: PolicyModel

    async def __call__(self, state: RttcState, scope: RunScope) -> AnswerUpdate:
        """Add a candidate of arm `direct` or `ttt`."""
        attempt = state["attempt"]
        task, prompts = state["task"], scope.settings.prompts
        adapted = None if attempt == "direct" else state.get("adapted")
        shown = [] if adapted is None else solved(state.get("samples", ()))[: prompts.ttt_shown]
        messages = direct_messages(task["query"], task["history"], prompts)
        if shown:
            with suppress(BudgetExceeded):  # none of them fits: the question alone is asked
                messages, used = await fitting_prompt(self.policy_model, shown, state, scope)
                shown = shown[:used]
        update = await answer(
            self.policy_model,
            messages,
            state,
            scope,
            node="generate",
            attempt=attempt,
            adapted=adapted,
            shown=shown,
        )
        if adapted is None or not scope.settings.ttt_augment:
            return update
        return await voted_in_views(self.policy_model, update, state, scope)
