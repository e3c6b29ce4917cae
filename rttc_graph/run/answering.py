"""Getting one candidate from the policy model within the budget; for all answering nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import TypedDict

from rttc_graph.arms import ARMS
from rttc_graph.errors import BudgetExceeded, PolicyModelError
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    PolicyModel,
    seeded_by_prompt,
    summed,
)
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import NOTHING_SPENT, added, flops_of, tokens_left
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.prompts import rag_messages, solved
from rttc_graph.run.scope import RunScope
from rttc_graph.state import (
    Adapted,
    Attempt,
    Candidate,
    ChatTurn,
    LedgerEntry,
    RttcState,
    Sample,
    Spent,
)
from rttc_graph.support.thinking import answer_behind, spoken


class AnswerUpdate(TypedDict):
    """State update of an answering node."""

    candidates: list[Candidate]
    tried: list[Attempt]
    spent: Spent
    ledger: list[LedgerEntry]


async def answer(
    policy_model: PolicyModel,
    messages: Sequence[ChatTurn],
    state: RttcState,
    scope: RunScope,
    *,
    node: str,
    attempt: Attempt,
    adapted: Adapted | None = None,
    shown: Sequence[Sample] = (),
) -> AnswerUpdate:
    """Generate one candidate; a failure leaves a ledger entry in its place.

    Args:
        policy_model: Answers.
        messages: The prompt.
        state: State of the run.
        scope: Scope of this step.
        node: Id of the node that asks.
        attempt: What the candidate is an attempt of.
        adapted: The adapter that is on.
        shown: Samples in the prompt.
    """
    generation = await survive(
        _generate(
            policy_model,
            messages,
            state,
            scope,
            adapted["key"] if adapted else state.get("standing"),
        ),
        deadline=scope.deadline,
        grace_seconds=GRACE_SECONDS,
    )
    if isinstance(generation, Failure):
        return failed_answer(generation, state, scope, node=node, attempt=attempt)
    tokens = generation.prompt_tokens + generation.completion_tokens
    said = spoken(generation.text)
    if said.has_thoughts and not said.answer:
        thinking = Failure(PolicyModelError(_only_thoughts(generation, scope)))
        return failed_answer(thinking, state, scope, node=node, attempt=attempt, tokens=tokens)
    flops = await flops_of(policy_model, generation)
    candidate = _candidate(generation, said.answer, attempt, adapted, seconds=_elapsed(scope))
    candidate["flops"] = summed(flops, adapted.get("flops", 0.0) if adapted else 0.0)
    candidate["rests_on"] = [
        *(sample["id"] for sample in shown),
        *(adapted.get("rests_on", ()) if adapted else ()),
    ]
    return answered(
        candidate,
        state,
        scope,
        node=node,
        attempt=attempt,
        flops=flops,
        **({"thoughts_dropped": True} if said.has_thoughts else {}),
    )


def answered(
    candidate: Candidate,
    state: RttcState,
    scope: RunScope,
    *,
    node: str,
    attempt: Attempt,
    tokens: int | None = None,
    flops: float | None = None,
    **detail: Any,
) -> AnswerUpdate:
    """Return the update of an attempt that gave a candidate; `detail` is noted in the ledger.

    Args:
        candidate: The answer.
        state: State of the run.
        scope: Scope of this step.
        node: Id of the node that answers.
        attempt: What the candidate is an attempt of.
        tokens: Tokens that this step took; by default all that the candidate did.
        flops: Floating-point operations of this step, as far as they are known.
        **detail: Plain data.
    """
    if "draws" not in candidate:  # draws of a panel are streamed as they are drawn
        number = len(state["candidates"])
        stream_candidate(candidate["answer"], state, scope, attempt=attempt, number=number)
    if tokens is None:
        tokens = candidate["prompt_tokens"] + candidate["completion_tokens"]
    generated = 1 if ARMS.attempts[attempt].asks_model else 0
    standing = state.get("standing")
    if standing is not None and generated:
        candidate, detail = {**candidate, "standing": standing}, {**detail, "standing": standing}
    return {
        "candidates": [*state["candidates"], candidate],
        "tried": [*state["tried"], attempt],
        "spent": added(
            state["spent"], since=scope.started, tokens=tokens, arms=generated, flops=flops
        ),
        "ledger": record(
            state,
            scope,
            [
                entry(
                    node,
                    "answered",
                    since=scope.started,
                    arm=candidate["arm"],
                    attempt=attempt,
                    prompt_tokens=candidate["prompt_tokens"],
                    completion_tokens=candidate["completion_tokens"],
                    finish_reason=candidate["finish_reason"],
                    **_compute(candidate),
                    **detail,
                )
            ],
        ),
    }


def stream_candidate(
    answer: str, state: RttcState, scope: RunScope, *, attempt: Attempt, number: int
) -> None:
    """Show an answer that is not judged yet, where the settings ask for it.

    Args:
        answer: The text.
        state: State of the run.
        scope: Scope of this step.
        attempt: What the answer is an attempt of.
        number: Its place among the run's candidates, or among the draws of its panel, from 0.
    """
    if not scope.settings.stream_candidates:
        return
    arm = ARMS.of_attempt(attempt).name
    scope.emit({"event": "candidate", "arm": arm, "number": number, "answer": answer})
    if state["task"]["from_messages"]:
        name = f"{state['run_id']}-{attempt}-{number}"
        told = {"arm": arm, "number": number, "run_id": state["run_id"]}
        scope.push(AIMessage(answer, id=name, name="rttc_candidate", response_metadata=told))


def failed_answer(
    failure: Failure,
    state: RttcState,
    scope: RunScope,
    *,
    node: str,
    attempt: Attempt,
    tokens: int = 0,
) -> AnswerUpdate:
    """Return the update of an attempt that gave no candidate but took these tokens."""
    arm = ARMS.of_attempt(attempt).name
    failed = entry(node, "failed", since=scope.started, arm=arm, error=failure.reason)
    return {
        "candidates": state["candidates"],
        "tried": [*state["tried"], attempt],
        "spent": added(
            state.get("spent", NOTHING_SPENT),
            since=scope.started,
            tokens=tokens,
            arms=1 if tokens else 0,
        ),
        "ledger": record(state, scope, [failed]),
    }


async def room_for_answer(
    policy_model: PolicyModel, messages: Sequence[ChatTurn], scope: RunScope
) -> int:
    """Return how many tokens an answer may have after this prompt; below 1 there is no room."""
    prompt = await policy_model.count_tokens(messages)
    context = await policy_model.context_tokens()
    left = await tokens_left(policy_model, scope.allowance, scope.settings)
    limits = [scope.settings.max_new_tokens, left.tokens - prompt]
    if context is not None:
        limits.append(context - prompt)
    return min(limits)


async def fitting_prompt(
    policy_model: PolicyModel, samples: Sequence[Sample], state: RttcState, scope: RunScope
) -> tuple[tuple[ChatTurn, ...], int]:
    """Return the prompt with the most of these samples that leave room for a whole answer.

    Args:
        policy_model: Counts tokens.
        samples: Those that are left out first stand last.
        state: State of the run.
        scope: Scope of this step.

    Returns:
        The prompt, and how many samples are in it.

    Raises:
        BudgetExceeded: Not even the first sample fits.
    """
    task, wanted = state["task"], scope.settings.max_new_tokens

    def prompt(used: int) -> tuple[ChatTurn, ...]:
        return rag_messages(task["query"], samples[:used], task["history"], scope.settings.prompts)

    tried = len(samples)
    fits, too_many = 0, tried + 1
    while fits + 1 < too_many:  # all at first, then halving: a long prompt is slow to count
        if await room_for_answer(policy_model, prompt(tried), scope) >= wanted:
            fits = tried
        else:
            too_many = tried
        tried = (fits + too_many) // 2
    if fits:
        return prompt(fits), fits
    raise BudgetExceeded(
        f"not one of {len(samples)} samples fits beside the question and an answer of "
        f"max_new_tokens={wanted} tokens; lower it, raise budget_tokens or shorten the question"
    )


async def no_room(
    policy_model: PolicyModel, messages: Sequence[ChatTurn], scope: RunScope
) -> BudgetExceeded:
    """Return the error about a prompt that leaves no token for an answer."""
    prompt = await policy_model.count_tokens(messages)
    context = await policy_model.context_tokens()
    if context is not None and prompt >= context:
        return BudgetExceeded(
            f"the prompt has {prompt} tokens, and the model's context is {context}: shorten the "
            "question or the conversation before it"
        )
    left = await tokens_left(policy_model, scope.allowance, scope.settings)
    return BudgetExceeded(
        f"the prompt has {prompt} tokens, and {left.tokens} are left of {left.of}: raise it, or "
        "shorten the question"
    )


async def generated(
    policy_model: PolicyModel,
    requests: Sequence[GenerationRequest],
    *,
    deadline: float | None,
) -> list[Generation]:
    """Return what a policy model generates for each request, in order.

    Questions with one seed are drawn independently of each other.

    Raises:
        PolicyModelError: It failed, or returned another number than was asked for.
    """
    asked = [seeded_by_prompt(request) for request in requests]
    made = await policy_model.generate(asked, deadline=deadline)
    if len(made) != len(requests):
        raise PolicyModelError(
            f"{policy_model.name} returned {len(made)} answers and was asked for {len(requests)}"
        )
    return made


async def _generate(
    policy_model: PolicyModel,
    messages: Sequence[ChatTurn],
    state: RttcState,
    scope: RunScope,
    adapter: str | None,
) -> Generation:
    room = await room_for_answer(policy_model, messages, scope)
    if room < 1:
        raise await no_room(policy_model, messages, scope)
    request = GenerationRequest(
        messages=tuple(messages),
        max_new_tokens=room,
        temperature=scope.settings.temperature,
        top_p=scope.settings.top_p,
        stop=scope.settings.stop_strings,
        seed=scope.settings.seed,
        adapter=adapter,
        drafts=tuple(
            dict.fromkeys(
                answer_behind(sample["answer"]) for sample in solved(state.get("samples", ()))
            )
        ),
    )
    [made] = await generated(policy_model, [request], deadline=scope.deadline)
    if made.finish_reason == "budget" and not made.text.strip():
        raise BudgetExceeded(
            f"no text came within budget_seconds={scope.settings.budget_seconds}; raise it"
        )
    return made


def _compute(candidate: Candidate) -> dict[str, Any]:
    """Return what a candidate says of its cost beside its tokens."""
    names = ("draws", "reused_tokens", "trained_tokens", "flops")
    return {name: value for name, value in candidate.items() if name in names}


def _only_thoughts(made: Generation, scope: RunScope) -> str:
    limit = (
        f"budget_seconds={scope.settings.budget_seconds}"
        if made.finish_reason == "budget"
        else f"max_new_tokens={scope.settings.max_new_tokens}"
    )
    return (
        f"the model thought for {made.completion_tokens} tokens and gave no answer: raise {limit}, "
        "or tell it not to think (thinking=false for a local model)"
    )


def _candidate(
    made: Generation,
    text: str,
    attempt: Attempt,
    adapted: Adapted | None,
    *,
    seconds: float,
) -> Candidate:
    return {
        "arm": ARMS.of_attempt(attempt).name,
        "answer": text,
        "reward": None,
        "seconds": seconds + (adapted["seconds"] if adapted else 0.0),
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "trained_tokens": adapted["trained_tokens"] if adapted else 0,
        "mean_logprob": made.mean_logprob,
        "finish_reason": made.finish_reason,
        "adapter": adapted["key"] if adapted else None,
        "reused_tokens": made.reused_tokens,
    }


def _elapsed(scope: RunScope) -> float:
    return added(NOTHING_SPENT, since=scope.started)["seconds"]
