"""How published process reward models are shown a question and steps, as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

STEP_TAG = "ки"
"""Mark behind each step for Math-Shepherd, whose token is followed by good or bad."""

VERDICTS = "+ -"
"""Good and bad, as Math-Shepherd says them."""

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QWEN_STEP_END = "<extra_0>"
"""Mark behind each step for Qwen2.5-Math-PRM, a token of its own."""


def shepherd_text(query: str, steps: Sequence[str]) -> str:
    """Return question and numbered steps, each with Math-Shepherd's mark behind it."""
    numbered = [_named(step, number) for number, step in enumerate(_untagged(steps), start=1)]
    return f"{_untagged([query])[0]} " + "\n".join(f"{step} {STEP_TAG}" for step in numbered)


def qwen_answer(steps: Sequence[str]) -> str:
    """Return the answer's turn for Qwen2.5-Math-PRM; a step cannot write the mark itself."""
    return "".join(step.replace(QWEN_STEP_END, "").strip("\n") + QWEN_STEP_END for step in steps)


def _named(step: str, number: int) -> str:
    text = step.strip()
    return text if re.match(r"Step \d+:", text) else f"Step {number}: {text}"


def _untagged(texts: Sequence[str]) -> list[str]:
    return [text.replace(STEP_TAG, "") for text in texts]
