"""What a domain's adapter is trained on: accepted answers, and revisions of wrong ones."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.protocols import TrainingExample
from rttc_graph.run.prompts import REVISE, direct_messages
from rttc_graph.settings import PromptSettings
from rttc_graph.state import ChatTurn

__all__ = ("answer_lesson", "edit_distance", "revision_lesson")

MAX_WRONG = 4
"""Wrong answers before the right one, at most (arXiv 2408.03314, section 6.1)."""

_COMPARED = 400
"""Characters of answers that are compared; the time grows with the square."""


def answer_lesson(question: str, answer: str, prompts: PromptSettings) -> TrainingExample:
    """Return a question as the plain model is asked it, with the answer to learn."""
    return TrainingExample(messages=direct_messages(question, (), prompts), answer=answer)


def revision_lesson(
    question: str, answer: str, wrong: Sequence[str], prompts: PromptSettings
) -> TrainingExample | None:
    """Return a question with wrong answers before the right one; `None` without wrong ones.

    They stand as the strategy `revise` shows them: each as the model's own turn, and the order to
    look at it again. The one that is nearest to the right answer stands last, so that there is
    something to be mended in it (arXiv 2408.03314, section 6.1).

    Args:
        question: The question.
        answer: The right answer.
        wrong: Wrong answers; the nearest ones are shown, each once.
        prompts: How prompts are made.
    """
    tried = sorted(set(wrong), key=lambda text: (edit_distance(text, answer), text))[:MAX_WRONG]
    if not tried:
        return None
    messages: list[ChatTurn] = [*direct_messages(question, (), prompts)]
    for text in reversed(tried):
        messages.append({"role": "assistant", "content": text})
        messages.append({"role": "user", "content": REVISE})
    return TrainingExample(messages=tuple(messages), answer=answer)


def edit_distance(left: str, right: str) -> int:
    """Return how many characters must be put in, taken out or replaced (Levenshtein).

    Only the last 400 characters of each count: that is where answers say their result.
    """
    left, right = left[-_COMPARED:], right[-_COMPARED:]
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, start=1):
        above, row[0] = row[0], i
        for j, other in enumerate(right, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (one != other))
    return row[-1]
