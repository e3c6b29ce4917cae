"""Tasks of reasoning-gym whose questions fall into smaller ones, as folders for `rttc eval`.

Legs of several animals are products and a sum, sums of three numbers are two sums, word problems of
the GSM kind are two or three steps. All are short, and reasoning-gym verifies their answers.

    python -m benchmarks.experiments.thought_tasks build/thoughts --questions 120
    rttc eval build/thoughts/leg-counting \
        --policies graph_of_thoughts,direct,rag,majority@8 --report out
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.tools.split_data import write_folder
from rttc_graph.evaluation.scorers import REASONING_GYM_KEY
from rttc_graph.protocols import NewSample
from rttc_graph.support.extras import require

SEED = 1_300_000
SAMPLES = 60
"""Solved questions of each task."""

TASKS: Mapping[str, dict[str, Any]] = {
    "leg_counting": {"min_animals": 2, "max_animals": 2, "max_instances": 5},
    "chain_sum": {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "gsm_symbolic": {},
}
"""In sizes that a model of half a billion weights sometimes gets right in a few tokens; word
problems have one size."""


def rows(task: str, count: int, seed: int) -> Iterator[NewSample]:
    """Yield so many different solved questions of a task.

    Raises:
        ConfigurationError: reasoning-gym is not installed.
        ValueError: The task has fewer.
    """
    library = require("reasoning_gym", extra="puzzles", purpose="the questions")
    data = library.create_dataset(task, seed=seed, size=20 * count, **TASKS[task])
    seen: set[str] = set()
    for entry in cast("Iterable[dict[str, Any]]", data):
        question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
        if question in seen or not answer:
            continue
        seen.add(question)
        metadata = json.loads(json.dumps(entry["metadata"], default=str))
        yield NewSample(
            question=question,
            answer=answer,
            domain=task.replace("_", "-"),
            metadata={REASONING_GYM_KEY: metadata},
        )
        if len(seen) == count:
            return
    raise ValueError(f"{count} questions are wanted, and {task} has {len(seen)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Write a folder for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=120, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(argv)
    for task in TASKS:
        every = list(rows(task, SAMPLES + given.questions, given.seed))
        write_folder(given.folder / task.replace("_", "-"), every[:SAMPLES], every[SAMPLES:])


if __name__ == "__main__":
    main()
