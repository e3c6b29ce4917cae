"""What pydantic says of a value, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ("problem_words",)

_OUR_OWN = "Value error, "


def problem_words(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as the rest of a sentence.

    What a validator of ours has said stays as it is: it may repeat the value.
    """
    words = str(problem.get("msg", ""))
    if words.startswith(_OUR_OWN):
        return words.removeprefix(_OUR_OWN)
    return words[:1].lower() + words[1:]
