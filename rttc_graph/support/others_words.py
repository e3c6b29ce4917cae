"""What others say in their errors, in our words: pydantic of a value, vendors with a key in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from rttc_graph.support.identity import meant_name

__all__ = ("HIDDEN_KEY", "problem_words", "without_keys")

_OUR_OWN = "Value error, "

_QUOTED = re.compile(r"'([^']*)'")
"""Names among which one had to be chosen, in pydantic's words."""


def problem_words(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as the rest of a sentence.

    What a validator of ours has said stays as it is: it may repeat the value.
    """
    words = str(problem.get("msg", ""))
    if words.startswith(_OUR_OWN):
        return words.removeprefix(_OUR_OWN)
    words = words[:1].lower() + words[1:]
    expected = _QUOTED.findall(problem.get("ctx", {}).get("expected", ""))
    given = problem.get("input")
    if problem.get("type") != "literal_error" or not isinstance(given, str):
        return words
    meant = meant_name(given, expected)
    return words if meant is None else f"{words}; did you mean {meant!r}?"


HIDDEN_KEY = "[key]"
"""Text that stands where a key stood."""

_NAMES = re.compile(r"(?:API_?KEY|TOKEN|SECRET|PASSWORD|ACCESS_KEY)$", re.IGNORECASE)
"""Names of environment variables whose values are keys."""

_SHAPES = re.compile(
    r"\b(?:sk|gsk|xai|hf|pk)[-_][\w*-]{8,}"  # OpenAI and many others, Groq, xAI, the model hub
    r"|\bAIza[\w-]{20,}"  # Google
    r"|(?<=\bbearer )[^\s'\",;]{8,}",
    re.IGNORECASE,
)

_SHORTEST = 6
"""Characters below which a value is too common a text to be replaced."""


def without_keys(text: str) -> str:
    """Return a text without keys: values of the environment's keys, and what looks like a key.

    Args:
        text: Words of an error, for a person, a log or the ledger.
    """
    for name, value in os.environ.items():
        if _NAMES.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN_KEY)
    return _SHAPES.sub(HIDDEN_KEY, text)
