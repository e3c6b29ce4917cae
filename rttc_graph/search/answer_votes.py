"""What a drawn answer votes for: the form in which answers that mean the same are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from rttc_graph.state import FinishReason
from rttc_graph.support.canonical import canonical, states_number
from rttc_graph.support.marks import FINAL_MARK
from rttc_graph.support.numbers import last_number
from rttc_graph.support.refusals import is_refusal

MAX_CHARACTERS = 200
"""Longest vote; a longer text votes by its beginning and a digest of the whole."""


def read_vote(text: str, *, finish_reason: FinishReason, numeric: bool = False) -> str | None:
    """Return what an answer votes for; `None` if it has no vote.

    No vote has an empty text, an "I do not know", an answer that was cut short before it marked
    something as final, and where numbers are wanted one without a number.

    Args:
        text: What the model said, without its thoughts.
        finish_reason: Why it ended.
        numeric: Whether numbers are wanted: then the number that the text ends with is its vote,
            as scorers read it.
    """
    if not text.strip() or is_refusal(text):
        return None
    if finish_reason != "stop" and FINAL_MARK not in text:
        return None
    if numeric:
        number = last_number(text)
        return None if number is None else str(number)
    said = canonical(text)
    if len(said) <= MAX_CHARACTERS:
        return said
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return f"{said[: MAX_CHARACTERS - len(digest) - 1]}…{digest}"


def wants_number(answers: Iterable[str]) -> bool:
    """Tell whether an answer like these is a number: all of them are, and there is one."""
    stated = [states_number(answer) for answer in answers]
    return bool(stated) and all(stated)
