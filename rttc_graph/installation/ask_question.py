"""Asking a graph one question and getting its whole result as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from typing_extensions import TypedDict

from rttc_graph.errors import ConfigurationError
from rttc_graph.graph import RttcGraph
from rttc_graph.protocols import PolicyModel
from rttc_graph.run.prompts import direct_messages
from rttc_graph.run.tau_r import best_candidate
from rttc_graph.settings import RttcSettings
from rttc_graph.state import (
    Arm,
    CacheReport,
    Candidate,
    ChatTurn,
    LedgerEntry,
    RttcInput,
    RttcState,
    Sample,
    Source,
)


class AskResult(TypedDict):
    """A run's output, ready for JSON."""

    answer: str
    arm: Arm
    reward: float | None
    accepted: bool
    declined: bool
    tau_r: float
    calibrated: bool
    sources: list[Source]
    run_id: str
    candidates: list[Candidate]
    ledger: list[LedgerEntry]
    cache: CacheReport
    seconds: float
    samples: NotRequired[list[Sample]]
    """Samples in hand at the end of the run, where they were asked for."""


def why_cut(result: AskResult) -> str | None:
    """Return why the answer of a run is not whole; `None` for a whole one and a declined run."""
    taken = best_candidate(result["candidates"])
    if taken is None or result["declined"]:
        return None
    return _CUT.get(taken["finish_reason"])


_CUT: Mapping[str, str] = {
    "length": "the answer was cut at its longest: a higher max_new_tokens allows more",
    "budget": "the answer was cut when the budget was spent: a higher budget_seconds allows more",
    "loop": "the answer was cut, since it repeated itself",
    "step": "the answer is not at its end: a higher budget_tokens or budget_seconds allows more",
}
"""Words for the reasons to end an answer that is not whole."""


async def fitting_history(
    policy_model: PolicyModel,
    question: str,
    history: Sequence[ChatTurn],
    settings: RttcSettings,
) -> list[ChatTurn]:
    """Return the latest turns of a conversation that a model's context has room for.

    The prompt without samples may take half of it, so that some samples fit too, and less where an
    answer may be longer than that. The turns of a question and its answer go together.

    Args:
        policy_model: Counts tokens; one whose context is not known gets all turns.
        question: What is asked next.
        history: Turns before it, a question first.
        settings: Settings of the run.

    Raises:
        PolicyModelError: The model failed.
    """
    turns, context = list(history), await policy_model.context_tokens()
    if context is None:
        return turns
    most = context - max(settings.max_new_tokens, context // 2)
    while turns:
        prompt = direct_messages(question, turns, settings.prompts)
        if await policy_model.count_tokens(prompt) <= most:
            break
        del turns[:2]
    return turns


def describe_event(event: Mapping[str, Any]) -> str | None:
    """Return a custom event of the graph in words; `None` for one that says nothing to people."""
    if event["event"] == "ttt_step":
        step, steps, loss = event["step"], event["steps"], event["loss"]
        return f"training step {step} of {steps}, loss {loss:.3f}"
    if event["event"] == "panel":
        votes = event["votes"].get(event["leader"], 0)
        leader = f", {event['leader']!r} leads with {votes}" if votes else ""
        return f"{event['arm']}: {event['drawn']} of at most {event['size']} answers drawn{leader}"
    if event["event"] == "ledger":
        entry = event["entry"]
        return f"{entry['node']}: {entry['detail'].get('reason', entry['event'])}"
    return None


async def ask(
    graph: RttcGraph,
    question: str,
    *,
    domain: str | None = None,
    settings: RttcSettings | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    with_samples: bool = False,
    history: Sequence[ChatTurn] = (),
) -> AskResult:
    """Run the graph on one question.

    Args:
        graph: From `create_rttc_graph`.
        question: What to answer.
        domain: Domain of the knowledge base to search; `None` searches all.
        settings: Settings of this run; by default those of the graph.
        on_event: Called with each custom event: ledger entries, training steps
            and rounds of panels.
        with_samples: Whether the result has the samples in hand, whether an answer rests on them
            or not.
        history: Turns of the conversation before the question.

    Raises:
        RttcError: No answer came, or the input or the settings are wrong; a run that stops to ask
            a person is such a setting.
    """
    output: RttcState | None = None
    asked: RttcInput = {"query": question, "domain": domain}
    if history:
        turns = [*history, ChatTurn(role="user", content=question)]
        asked = {"messages": [*map(_message, turns)], "domain": domain}
    stream = graph.astream(
        asked,
        context=settings,
        stream_mode=["custom", "values"],
        output_keys=[*graph.output_channels, "samples"] if with_samples else None,
    )
    async for mode, event in cast("Any", stream):
        if mode == "values" and "__interrupt__" in event:
            raise ConfigurationError(
                "the run waits for a person, and nobody can answer here: resume it on a graph with "
                "a checkpointer, or set ask_before_training=False"
            )
        if mode == "values":
            output = event
        elif on_event is not None:
            on_event(event)
    assert output is not None  # the stream of a run that did not raise ends with its values
    result: AskResult = {
        "answer": output["answer"],
        "arm": output["arm"],
        "reward": output["reward"],
        "accepted": output["accepted"],
        "declined": output["declined"],
        "tau_r": output["tau_r"],
        "calibrated": output["calibrated"],
        "sources": output["sources"],
        "run_id": output["run_id"],
        "candidates": output["candidates"],
        "ledger": output["ledger"],
        "cache": output["cache"],
        "seconds": output["seconds"],
    }
    if with_samples:
        result["samples"] = output.get("samples", [])
    return result


def _message(turn: ChatTurn) -> AnyMessage:
    match turn["role"]:
        case "system":
            return SystemMessage(turn["content"])
        case "user":
            return HumanMessage(turn["content"])
        case "assistant":
            return AIMessage(turn["content"])
