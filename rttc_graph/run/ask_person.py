"""Asks a person before an adapter is trained, where the run's settings want that.

The run stops with an interrupt and goes on when it is resumed with an answer, on a LangGraph
server from Studio's form. It needs a checkpointer; the time that the person takes costs no budget.
"""

from __future__ import annotations

from typing import Literal

from langgraph.types import interrupt
from pydantic import BaseModel, Field, ValidationError

from rttc_graph.arms import ARMS
from rttc_graph.run.tau_r import best_candidate
from rttc_graph.state import Attempt, RttcState


class TrainingAnswer(BaseModel):
    """Answer of a person who was asked before a training."""

    choice: Literal["train", "skip", "accept"] = Field(
        description="Train the adapter, go on without it, or take the best answer so far."
    )


def ask_person(state: RttcState) -> TrainingAnswer:
    """Stop the run with the question, or return the answer if the run was resumed with one.

    An answer of another form makes the resume fail; the run still waits after that.

    Raises:
        langgraph.errors.GraphInterrupt: There is no answer yet.
        pydantic.ValidationError: The answer has another form; its note says which there are.
    """
    best = best_candidate(state["candidates"])
    question = {
        "ask": "train an adapter for this question?",
        "query": state["task"]["query"],
        "samples": len(state["samples"]),
        "answer_so_far": best and best["answer"],
        "reward_so_far": best and best["reward"],
        "choices": ["train", "skip", "accept"],
    }
    try:
        return interrupt(question, response_schema=TrainingAnswer)
    except ValidationError as exc:  # which hosts know by its type: it is told, not replaced
        exc.add_note('resume with {"choice": "train"}, {"choice": "skip"} or {"choice": "accept"}')
        raise


def refused(choice: Literal["skip", "accept"], attempt: Attempt) -> tuple[Attempt, ...]:
    """Return the attempts that count as tried after an answer, so that the run goes on or ends.

    Args:
        choice: The answer: go on without the training, or take the best answer so far.
        attempt: The training that was refused.
    """
    return (attempt,) if choice == "skip" else tuple(ARMS.attempts)
