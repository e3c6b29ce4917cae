"""Draws of panels that nobody has drawn, for strategies and figures over them."""

from __future__ import annotations

from typing import Any

from rttc_graph.state import Drawn


def drawn(
    vote: str | None,
    reward: float | None = None,
    *,
    text: str | None = None,
    by: str = "direct",
    **more: Any,
) -> Drawn:
    """Return a draw whose text is its vote; a draw without a vote has the text `?`.

    Args:
        vote: What it votes for.
        reward: The judge's, if any.
        text: Another text.
        by: Its proposer.
        more: Other fields; one that is `None` is left out.
    """
    one: Any = {
        "proposer": by,
        "text": (vote or "?") if text is None else text,
        "vote": vote,
        "reward": reward,
        "prompt_tokens": 5,
        "completion_tokens": 1,
        "mean_logprob": None,
        "finish_reason": "stop",
        "shown": [],
    }
    one |= {name: value for name, value in more.items() if value is not None}
    drawn: Drawn = one
    return drawn
