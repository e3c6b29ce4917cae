"""Rows of drawn steps: one line of JSON for each question, with labels and hidden states."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.support.json_lines import add_lines, load_lines

_LARGEST = 60_000.0
"""Largest number that is stored of a state; a float of two bytes ends at 65,504."""


class DrawnStep(TypedDict):
    """One step of a drawn answer."""

    text: str
    tokens: int
    label: float
    """Probability that an answer which goes on from its end is right, as far as it is known."""
    rollouts: int
    """Completions that the label comes from; 0 for one that comes from the outcome."""
    state: str | None
    """Hidden state at its end, as `encoded_state` writes it; `None` where there is none."""
    logprob: NotRequired[float | None]
    """Mean log-probability of its tokens in nats; rows of earlier releases have none."""


class DrawnAnswer(TypedDict):
    """One answer to a question."""

    steps: list[DrawnStep]
    right: bool
    vote: str | None
    first_wrong: int | None
    """Step from which on no completion was right; `None` if none was found."""
    was_probed: bool
    """Whether its steps were completed."""


class OutcomeState(TypedDict):
    """End of a completion, which is an outcome too."""

    state: str
    right: bool
    logprobs: NotRequired[list[float | None]]
    """Those of the steps before it, and of the rest in one."""


class QuestionSteps(TypedDict):
    """All that was drawn for a question."""

    key: str
    """Digest of the question, the settings and the policy model."""
    question: str
    domain: str
    rate: float
    """Share of the answers that are right."""
    answers: list[DrawnAnswer]
    completions: list[OutcomeState]


_PARSED = TypeAdapter(QuestionSteps)


def read_step_rows(file: Path) -> list[QuestionSteps]:
    """Return the rows of a file, none where there is none; a torn last line is removed.

    Raises:
        ConfigurationError: The file holds something else.
    """

    def parse(fields: dict[str, Any]) -> QuestionSteps:
        return _PARSED.validate_python(fields)

    return load_lines(file, parse, what="drawn steps", way_out="name another file with --out")


def add_step_row(file: Path, row: QuestionSteps) -> None:
    """Append a row, which a kill does not lose then."""
    add_lines(file, [row])


def encoded_state(state: Sequence[float] | None) -> str | None:
    """Return a state as text: floats of two bytes in base64; `None` for none or a broken one."""
    if state is None or not all(math.isfinite(one) for one in state):
        return None
    kept = [min(max(one, -_LARGEST), _LARGEST) for one in state]
    return base64.b64encode(struct.pack(f"<{len(kept)}e", *kept)).decode()


def decoded_state(text: str) -> tuple[float, ...]:
    """Return the state that `encoded_state` wrote."""
    raw = base64.b64decode(text)
    return struct.unpack(f"<{len(raw) // 2}e", raw)
