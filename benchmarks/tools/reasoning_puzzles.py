"""Reasoning tasks as a small knowledge base, and questions to ask it, made on the spot.

The tasks come from reasoning-gym, which makes as many questions as one likes and verifies answers.
They are chosen so that a model of 135 million weights fails them when it is asked plainly, and
has a chance with samples: the form of the answer, or a short pattern, is in the samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import REASONING_GYM_KEY
from rttc_graph.protocols import NewSample
from rttc_graph.support.extras import require

SAMPLE_SEED = 1_000
QUESTION_SEED = 1_000_000
"""Item i of seed s is item i - 1 of seed s + 1, so seeds must lie further apart than any count."""

MAX_TRIES_PER_ITEM = 50
"""Items drawn for each one wanted, as small tasks repeat their questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PuzzleTask:
    """A task of reasoning-gym in a size for small models."""

    domain: str
    task: str
    """Name in reasoning-gym."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


TASKS: tuple[PuzzleTask, ...] = (
    PuzzleTask(
        domain="word-order", task="word_sequence_reversal", config={"min_words": 2, "max_words": 3}
    ),
    PuzzleTask(
        domain="sentences",
        task="sentence_reordering",
        config={"min_words_in_sentence": 3, "max_words_in_sentence": 4},
    ),
    PuzzleTask(
        domain="sequences",
        task="number_sequence",
        config={"max_complexity": 1, "min_value": 1, "max_value": 20},
    ),
    PuzzleTask(domain="sums", task="chain_sum", config={"max_terms": 2, "max_digits": 1}),
    PuzzleTask(domain="coins", task="coin_flip", config={"max_trials": 12}),
    PuzzleTask(domain="letters", task="letter_counting", config={"min_words": 3, "max_words": 4}),
)
"""Prompts with eight samples stay below 600 tokens, answers below 12."""


def samples(per_task: int = 100, *, seed: int = SAMPLE_SEED) -> list[NewSample]:
    """Return `per_task` different solved questions of each task, the same ones for a seed.

    Raises:
        ConfigurationError: reasoning-gym is not installed, or a task has fewer questions.
    """
    return [row for task in TASKS for row in _drawn(task, per_task, seed, frozenset())]


def questions(
    per_task: int = 1, *, apart_from: Iterable[NewSample], seed: int = QUESTION_SEED
) -> list[NewSample]:
    """Return `per_task` questions of each task, none of which is in `apart_from`.

    Args:
        per_task: At least 1.
        apart_from: The samples of the knowledge base.
        seed: At least a few thousand away from that of the samples.

    Raises:
        ConfigurationError: As `samples`.
    """
    known = frozenset(sample.question for sample in apart_from)
    return [row for task in TASKS for row in _drawn(task, per_task, seed, known)]


def _drawn(task: PuzzleTask, count: int, seed: int, known: frozenset[str]) -> list[NewSample]:
    if count < 1:
        raise ConfigurationError(f"per_task={count!r} must be at least 1")
    rows: dict[str, NewSample] = {}
    for row in _stream(task, count * MAX_TRIES_PER_ITEM, seed):
        if row.question not in known:
            rows.setdefault(row.question, row)
        if len(rows) == count:
            return list(rows.values())
    raise ConfigurationError(
        f"per_task={count!r} is too many: {task.task!r} made {len(rows)} different questions"
    )


def _stream(task: PuzzleTask, size: int, seed: int) -> Iterator[NewSample]:
    library = require("reasoning_gym", extra="puzzles", purpose="reasoning tasks")
    entries = cast(
        "Iterable[dict[str, Any]]",
        library.create_dataset(task.task, seed=seed, size=size, **task.config),
    )
    for entry in entries:
        yield NewSample(
            question=entry["question"].strip(),
            answer=str(entry["answer"]).strip(),
            domain=task.domain,
            metadata={REASONING_GYM_KEY: _plain(entry["metadata"])},
        )


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as JSON data; what JSON lacks (enums, dates) becomes text."""
    return cast("dict[str, Any]", json.loads(json.dumps(metadata, default=str)))
