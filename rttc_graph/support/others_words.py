"""What others say in their errors, in our words: pydantic of a value, vendors with a key in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

__all__ = ("HIDDEN_KEY", "problem_words", "without_keys")

_OUR_OWN = "Value error, "


def problem_words(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as the rest of a sentence.

    What a validator of ours has said stays as it is: it may repeat the value.
    """
    words = str(problem.get("msg", ""))
    if words.startswith(_OUR_OWN):
        return words.removeprefix(_OUR_OWN)
    return words[:1].lower() + words[1:]


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
