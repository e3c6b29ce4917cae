"""What a drawn answer votes for: the form in which answers that mean the same are equal."""

from __future__ import annotations

import hashlib
import re
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

    An "answer is" before it, a box of LaTeX around it and blanks in a formula make no difference.
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
    said = _canonical(_stated(text))
    if len(said) <= MAX_CHARACTERS:
        return said
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return f"{said[: MAX_CHARACTERS - len(digest) - 1]}…{digest}"


_LEAD = re.compile(
    r"\s*(?:(?:so|thus|therefore|hence)\b\W*)?(?:the\s+|my\s+)?(?:final\s+|right\s+|correct\s+)?"
    r"(?:answer|choice|option|result|label)\s*(?:is\b|:|=)\s*:?\s*(?=\S)",
    re.IGNORECASE,
)
"""Words before an answer that say only that it is one."""

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")

_FORMULA = re.compile(r"(?=.*\d)(?=.*[+*/^=-])[\w+\-*/^=().\s]+")
"""Formula on one line: letters, digits and operators, a digit and an operator among them."""


def _stated(text: str) -> str:
    """Return the answer of a text that says around it only that it is the answer."""
    boxed = _BOXED.findall(text)
    if boxed and FINAL_MARK not in text:
        return str(boxed[-1])
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead else text


def _canonical(stated: str) -> str:
    """Return a formula without blanks and without a `*` that can be left out, else `canonical`."""
    bare = stated.strip().rstrip(".").casefold()
    is_formula = _FORMULA.fullmatch(bare) and not re.search(r"[^\W\d_]{2}", bare)
    if states_number(stated) or not is_formula:
        return canonical(stated)
    return re.sub(r"(?<=\d)\*(?=[^\W\d_])", "", re.sub(r"\s", "", bare))


def wants_number(answers: Iterable[str]) -> bool:
    """Tell whether an answer like these is a number: all of them are, and there is one."""
    stated = [states_number(answer) for answer in answers]
    return bool(stated) and all(stated)
