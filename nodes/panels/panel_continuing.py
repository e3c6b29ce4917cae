"""Draws that go on from the beginning of an answer, behind the prompt of an earlier draw."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.arms import ARMS
from rttc_graph.errors import ConfigurationError
from rttc_graph.nodes.panels.panel_judging import adapter_of
from rttc_graph.protocols import GenerationRequest, PolicyModel
from rttc_graph.run.prompts import direct_messages, rag_messages
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.search.strategy import Continuation, Proposal
from rttc_graph.state import ChatTurn, Drawn, RttcState


def continued(
    one: Continuation,
    number: int,
    proposal: Proposal,
    panel: Panel,
    state: RttcState,
    scope: RunScope,
) -> GenerationRequest:
    """Return the request that goes on with a draw, with as many tokens as it may have.

    It is asked as an answer of its own would be, with the setting `temperature`.

    Args:
        one: What is gone on with.
        number: Number of the draw in its panel.
        proposal: Says how long it may be.
        panel: The panel before this round.
        state: State of the run.
        scope: Scope of this step.

    Raises:
        ConfigurationError: The strategy may not, names no draw or no text, or a stop string stands
            in the text.
    """
    settings, name = scope.settings, state["attempt"]
    if not ARMS.attempts[name].continues:
        raise ConfigurationError(
            f"strategy {name!r} goes on from the beginning of an answer: register it with "
            "continues=True, so that only a model that can is asked to"
        )
    if not 0 <= one.place < len(panel.drawn) or not one.begun:
        raise ConfigurationError(
            f"strategy {name!r} goes on from draw {one.place!r} of {len(panel.drawn)} with the "
            f"text {one.begun[:80]!r}: name a draw that there is, and what the answer begins with"
        )
    earlier = panel.drawn[one.place]
    return GenerationRequest(
        messages=own_prompt(earlier, state, scope),
        answer_prefix=one.begun,
        max_new_tokens=longest(proposal, scope),
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop=settings.stop_strings,
        seed=draw_seed(settings.seed, number),
        adapter=adapter_of(earlier["proposer"], state),
        ends_loops=proposal.ends_loops,
    )


async def prompt_tokens(model: PolicyModel, request: GenerationRequest) -> int:
    """Return how many tokens stand before an answer, its given beginning among them.

    That is counted as a turn, which takes a few tokens more.
    """
    begun: Sequence[ChatTurn] = (
        [{"role": "assistant", "content": request.answer_prefix}] if request.answer_prefix else []
    )
    return await model.count_tokens([*request.messages, *begun])


def longest(proposal: Proposal, scope: RunScope) -> int:
    """Return how many tokens an answer of a round may have.

    Raises:
        ConfigurationError: It may have none.
    """
    most, allowed = proposal.most_tokens, scope.settings.max_new_tokens
    if most is None:
        return allowed
    if most < 1:
        raise ConfigurationError(f"most_tokens={most!r} of a proposal must be at least 1")
    return min(most, allowed)


def own_prompt(earlier: Drawn, state: RttcState, scope: RunScope) -> tuple[ChatTurn, ...]:
    """Return the prompt that a draw was asked with, its samples in it."""
    task, prompts = state["task"], scope.settings.prompts
    shown = [state["samples"][place] for place in earlier["shown"]]
    if not shown:
        return direct_messages(task["query"], task["history"], prompts)
    return rag_messages(task["query"], shown, task["history"], prompts)
