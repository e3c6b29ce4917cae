"""Answers of an adapter to its question in several views, and the one that they vote for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    PolicyModel,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.answering import AnswerUpdate, generated
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import added, tokens_left
from rttc_graph.run.ledger import Notes, record
from rttc_graph.run.prompts import adapted_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.state import Candidate, FinishReason, RttcState
from rttc_graph.support.thinking import spoken
from rttc_graph.views.view import View
from rttc_graph.views.view_votes import PLAIN_VIEW, Ballot, elected, views_of

__all__ = ("voted_in_views",)


async def voted_in_views(
    policy_model: PolicyModel, update: AnswerUpdate, state: RttcState, scope: RunScope
) -> AnswerUpdate:
    """Return an adapter's answer, or the one that the question's views agree on instead.

    Each view is asked once, all of them in one call, as far as the budget has room; what each says
    is read back as an answer to the question as it is. A failure costs the votes, not the answer.

    Args:
        policy_model: Answers.
        update: Update of `generate` with the answer to the question as it is, the last candidate.
        state: State of the run before it.
        scope: Scope of this step.
    """
    settings = scope.settings
    if len(update["candidates"]) == len(state["candidates"]):
        return update  # there is no answer
    known = solved(state.get("samples", ()))
    views = views_of(state["task"]["query"], known, settings.ttt_augment, settings.ttt_views)
    if not views:
        return update
    notes, since = Notes("generate"), time.monotonic()
    plain = update["candidates"][-1]
    asking = _Asking(policy_model, plain["adapter"], state, scope)
    made = await survive(
        asking.answers(views, update), deadline=scope.deadline, grace_seconds=GRACE_SECONDS
    )
    if isinstance(made, Failure):
        notes.add_failure(made, since=since, what="ask in other views, so the plain answer counts")
        return {
            **update,
            "ledger": record({**state, "ledger": update["ledger"]}, scope, notes.entries),
        }
    return await asking.counted(plain, made, update, notes, since)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Answer to a view."""

    view: View
    made: Generation
    text: str | None
    """Answer as it would be without the view; `None` where it cannot be read."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """What asks in views and counts the votes."""

    policy_model: PolicyModel
    adapter: str | None
    state: RttcState
    scope: RunScope

    async def answers(self, views: Sequence[View], update: AnswerUpdate) -> list[_Seen]:
        """Return the answers to as many views as the budget has room for."""
        settings, spent = (
            self.scope.settings,
            update["spent"]["tokens"] - self.state["spent"]["tokens"],
        )
        left = (await tokens_left(self.policy_model, self.scope.allowance, settings)).tokens - spent
        context = await self.policy_model.context_tokens()
        asked: list[View] = []
        requests: list[GenerationRequest] = []
        for view in views:
            messages = adapted_messages(
                view.query, view.samples, self.state["task"]["history"], settings.prompts
            )
            prompt = await self.policy_model.count_tokens(messages)
            room = settings.max_new_tokens
            if prompt + room > left or (context is not None and prompt + room > context):
                continue
            left -= prompt + room
            asked.append(view)
            requests.append(
                GenerationRequest(
                    messages=messages,
                    max_new_tokens=room,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    stop=settings.stop_strings,
                    seed=settings.seed,
                    adapter=self.adapter,
                )
            )
        if not requests:
            return []
        made = await generated(self.policy_model, requests, deadline=self.scope.deadline)
        return [
            _Seen(view, one, view.undo(spoken(one.text).answer))
            for view, one in zip(asked, made, strict=True)
        ]

    async def counted(
        self,
        plain: Candidate,
        seen: Sequence[_Seen],
        update: AnswerUpdate,
        notes: Notes,
        since: float,
    ) -> AnswerUpdate:
        """Return the update with the answer that wins, its cost, and the votes in the ledger."""
        numeric = wants_number(one["answer"] for one in solved(self.state.get("samples", ())))
        texts: list[tuple[str, str, FinishReason]] = [
            (PLAIN_VIEW, plain["answer"], plain["finish_reason"])
        ]
        texts.extend((one.view.kind, one.text or "", one.made.finish_reason) for one in seen)
        ballots = [
            Ballot(transform=kind, vote=read_vote(text, finish_reason=reason, numeric=numeric))
            for kind, text, reason in texts
        ]
        place = elected(ballots)
        parameters = await parameters_of(self.policy_model)
        computed = (
            one.made.prompt_tokens - one.made.reused_tokens + one.made.completion_tokens
            for one in seen
        )
        flops = forward_flops(parameters, sum(computed))
        prompt = sum(one.made.prompt_tokens for one in seen)
        completion = sum(one.made.completion_tokens for one in seen)
        taken = seen[place - 1] if place else None
        names = [PLAIN_VIEW, *(one.view.name for one in seen)]
        notes.add(
            "voted",
            since=since,
            arm=plain["arm"],
            transforms=names,
            votes=[ballot.vote for ballot in ballots],
            taken=names[place],
            prompt_tokens=prompt,
            completion_tokens=completion,
            flops=flops,
        )
        candidate: Candidate = {
            **plain,
            "answer": plain["answer"] if taken is None else taken.text or "",
            "mean_logprob": plain["mean_logprob"] if taken is None else taken.made.mean_logprob,
            "finish_reason": plain["finish_reason"] if taken is None else taken.made.finish_reason,
            "seconds": plain["seconds"] + time.monotonic() - since,
            "prompt_tokens": plain["prompt_tokens"] + prompt,
            "completion_tokens": plain["completion_tokens"] + completion,
            "reused_tokens": plain.get("reused_tokens", 0)
            + sum(one.made.reused_tokens for one in seen),
            "draws": len(ballots),
            "flops": summed(plain.get("flops"), flops),
        }
        return {
            **update,
            "candidates": [*update["candidates"][:-1], candidate],
            "spent": added(
                update["spent"],
                since=since,
                tokens=prompt + completion,
                flops=flops,
            ),
            "ledger": record({**self.state, "ledger": update["ledger"]}, self.scope, notes.entries),
        }
