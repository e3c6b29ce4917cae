"""Revisions of a panel's draws: the prompt that asks for another look at an answer."""

from __future__ import annotations

from rttc_graph.nodes.panels.panel_continuing import own_prompt
from rttc_graph.nodes.panels.panel_judging import adapter_of
from rttc_graph.protocols import GenerationRequest
from rttc_graph.run.prompts import REVISE
from rttc_graph.run.scope import RunScope
from rttc_graph.search.chains import text_in_hand
from rttc_graph.search.panel import Panel
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.state import ChatTurn, RttcState


def revision_request(
    place: int, number: int, panel: Panel, state: RttcState, scope: RunScope
) -> GenerationRequest:
    """Return the request for a revision: the draw's own prompt, its answer, and the order.

    Args:
        place: Place of the draw in the panel; its text is in hand.
        number: Number of the new draw.
        panel: The panel.
        state: State of the run.
        scope: Scope of this step.
    """
    revised, settings = panel.drawn[place], scope.settings
    messages: tuple[ChatTurn, ...] = (
        *own_prompt(revised, state, scope),
        {"role": "assistant", "content": text_in_hand(panel, place)},
        {"role": "user", "content": REVISE},
    )
    return GenerationRequest(
        messages=messages,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.search.temperature,
        top_p=settings.top_p,
        stop=settings.stop_strings,
        seed=draw_seed(settings.seed, number),
        adapter=adapter_of(revised["proposer"], state),
    )
