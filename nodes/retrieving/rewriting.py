"""A follow-up of a conversation made into a question that stands alone, by the policy model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rttc_graph.errors import PolicyModelError
from rttc_graph.protocols import GenerationRequest, PolicyModel
from rttc_graph.run.answering import no_room, room_for_answer
from rttc_graph.run.prompts import standalone_messages
from rttc_graph.run.scope import RunScope
from rttc_graph.state import ChatTurn, Task
from rttc_graph.support.thinking import spoken

__all__ = ("Rewritten", "rewritten_follow_up")

_MOST_TOKENS = 128
"""Longest question that is made of a follow-up; most have less than 30 tokens."""

_MOST_TURNS = 8
"""Latest turns of the conversation that are shown; a follow-up seldom reaches back further."""


_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What became of a follow-up."""

    question: str = ""
    """The question that stands alone; empty where the query does so itself."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that it took."""
        return self.prompt_tokens + self.completion_tokens


async def rewritten_follow_up(policy_model: PolicyModel, task: Task, scope: RunScope) -> Rewritten:
    """Return the last question of a conversation as one that stands alone.

    Args:
        policy_model: Writes it, greedily and with the plain weights.
        task: The question with the turns before it.
        scope: Scope of this step.

    Raises:
        PolicyModelError: The model failed, or wrote nothing that can be a question of the
            conversation.
        BudgetExceeded: The conversation leaves no room.
    """
    messages = standalone_messages(task["query"], _latest(task["history"]))
    room = min(_MOST_TOKENS, await room_for_answer(policy_model, messages, scope))
    if room < 1:
        raise await no_room(policy_model, messages, scope)
    request = GenerationRequest(messages=messages, max_new_tokens=room, seed=scope.settings.seed)
    [made] = await policy_model.generate([request], deadline=scope.deadline)
    lines = [line.strip() for line in spoken(made.text).answer.splitlines() if line.strip()]
    if not lines:
        raise PolicyModelError(f"{policy_model.name} made no question of the follow-up")
    said = lines[0].strip("\"'")
    if not _is_about(said, task):
        raise PolicyModelError(f"{policy_model.name} made no question of the follow-up: {said!r}")
    return Rewritten(
        question="" if said == task["query"].strip() else said,
        prompt_tokens=made.prompt_tokens,
        completion_tokens=made.completion_tokens,
    )


def _is_about(said: str, task: Task) -> bool:
    """Tell whether a line can be a question of this conversation, and no echo of the order.

    A small model says "The question on its own is:" now and then. What shares no word of four
    letters with the conversation is not about it; scripts without blanks between words pass.
    """
    if said.endswith((":", "\uff1a")):
        return False
    turns = [turn["content"] for turn in _latest(task["history"])]
    known = _words(" ".join([task["query"], *turns]))
    return " " not in said or not known or bool(_words(said) & known)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _latest(history: list[ChatTurn]) -> list[ChatTurn]:
    talk = [turn for turn in history if turn["role"] != "system"]
    return talk[-_MOST_TURNS:]
