"""Feedback on a traced run, as `langsmith.Client.create_feedback` takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired
from uuid import UUID

from typing_extensions import TypedDict


class Feedback(TypedDict):
    """Arguments of `create_feedback`: `client.create_feedback(**feedback)`."""

    run_id: str
    """Id of the trace's run, which `config["run_id"]` of the call has chosen."""
    key: str
    score: float
    """In [0, 1]; 1 for yes."""
    comment: NotRequired[str]


def run_feedback(run_id: str | UUID, output: Mapping[str, Any]) -> list[Feedback]:
    """Return what the run itself says of its answer.

    Args:
        run_id: Id of the run in the trace; not the `run_id` of the output, which names the ledger.
        output: Output of the graph, or `response_metadata` of its message.

    Returns:
        `rttc_accepted`, and `rttc_reward` unless the reward model failed.
    """
    name = str(run_id)
    told = f"arm {output['arm']}, tau_r {output['tau_r']}"
    found: list[Feedback] = [
        {
            "run_id": name,
            "key": "rttc_accepted",
            "score": float(output["accepted"]),
            "comment": told,
        }
    ]
    if output["reward"] is not None:
        found.append({"run_id": name, "key": "rttc_reward", "score": float(output["reward"])})
    return found


def rating_feedback(run_id: str | UUID, *, right: bool, correction: str | None = None) -> Feedback:
    """Return what a person says of an answer.

    Args:
        run_id: Id of the run in the trace.
        right: Whether the answer is right.
        correction: The right answer, where the person gave one; it becomes the comment.
    """
    rating: Feedback = {"run_id": str(run_id), "key": "rttc_rating", "score": float(right)}
    return {**rating, "comment": correction} if correction else rating
