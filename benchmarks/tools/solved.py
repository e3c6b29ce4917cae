"""Questions with their right answers and their nearest solved samples."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks.tools import reasoning_puzzles
from benchmarks.tools.benchmark_options import Setup, tell
from rttc_graph.evaluation.scorers import normalised
from rttc_graph.protocols import NewSample, TrainingExample
from rttc_graph.reward_training.candidate_rows import graph_sample
from rttc_graph.run.prompts import training_examples
from rttc_graph.samples import read_samples
from rttc_graph.state import Sample

POOL = 1_500
"""Samples of a file among which neighbours are looked for; embedding them takes a minute or so."""

DEMO = "reasoning tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What a training gets, and what it is judged by."""

    data_set: str
    examples: tuple[TrainingExample, ...]
    """The nearest samples."""
    held_out: TrainingExample
    """The question itself with its right answer."""


def solved_questions(setup: Setup) -> list[Solved]:
    """Return the questions of all data sets in turns: one of each, then the next of each."""
    sets = (
        [(DEMO, *_demo(setup.questions))]
        if not setup.data
        else [(path.stem, *_of_file(path, setup.questions)) for path in setup.data]
    )
    embedder = SentenceTransformer(str(setup.embedder), device="cpu")
    found = [
        list(_with_nearest(embedder, name, asked, pool, setup.k)) for name, asked, pool in sets
    ]
    return [question for group in zip(*found, strict=True) for question in group]


def _demo(count: int) -> tuple[list[NewSample], list[NewSample]]:
    pool = reasoning_puzzles.samples(50)
    per_task = -(-count // len(reasoning_puzzles.TASKS))
    asked = reasoning_puzzles.questions(per_task, apart_from=pool)
    random.Random(0).shuffle(asked)
    return asked[:count], pool


def _of_file(path: Path, count: int) -> tuple[list[NewSample], list[NewSample]]:
    rows = list(read_samples(str(path)))
    random.Random(0).shuffle(rows)
    asked = rows[:count]
    taken = {normalised(row.question) for row in asked}
    return asked, [row for row in rows[count:] if normalised(row.question) not in taken][:POOL]


def _with_nearest(
    embedder: SentenceTransformer,
    name: str,
    asked: Sequence[NewSample],
    pool: Sequence[NewSample],
    k: int,
) -> Iterator[Solved]:
    tell(f"  embedding {len(pool)} samples of {name}")
    texts = [row.question for row in (*asked, *pool)]
    vectors = embedder.encode(texts, normalize_embeddings=True, batch_size=64)
    near = np.argsort(-(vectors[: len(asked)] @ vectors[len(asked) :].T), axis=1)[:, :k]
    for row, places in zip(asked, near, strict=True):
        samples = [_sample(pool[place]) for place in places]
        (held_out,) = training_examples([_sample(row)])
        yield Solved(data_set=name, examples=training_examples(samples), held_out=held_out)


def _sample(row: NewSample) -> Sample:
    return graph_sample(row, row.external_id or "")
