"""Which answer the samples themselves give best: of the nearest, or of a vote, and which vote.

Each question is asked of the samples that a split leaves; nothing but the embedder runs. Vectors
are kept in a folder, so that a second run takes seconds.

    python -m benchmarks.experiments.nearest_answers FILE.jsonl ... --cache FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tools.split_data import split
from rttc_graph.evaluation.intervals import paired_difference, wilson_interval
from rttc_graph.evaluation.scorers import is_right
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.nodes.nearest import vote
from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples
from rttc_graph.state import Sample

VOTERS = (1, 2, 3, 4, 5, 8, 16, 32)
SHARPNESS = (0.0, 1.0, 4.0, 8.0, 16.0, 32.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the share of right answers by voters and sharpness for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--questions", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the split; default: %(default)s")
    parser.add_argument("--embedder", help="name or folder; the configured one")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the vectors")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    figures = {file.stem: measure(file, given) for file in given.files}
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(file: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return and print the figures of one file."""
    rows = list(read_samples(file))
    samples, questions = split(rows, samples=None, questions=given.questions, seed=given.seed)
    near = neighbours(samples, questions, given)
    found = {
        (voters, sharpness): rights(questions, near, voters, sharpness)
        for voters in VOTERS
        for sharpness in (SHARPNESS if voters > 1 else (0.0,))
    }
    alone = found[1, 0.0]
    majority = max({s.answer for s in samples}, key=[s.answer for s in samples].count)
    guessed = [float(is_right(majority, question)) for question in questions]
    print(f"{file.stem}: {len(samples)} samples, {len(questions)} questions")
    print(f"  majority answer {majority[:40]!r}: {np.mean(guessed):.1%}")
    for (voters, sharpness), right in found.items():
        low, high = wilson_interval(round(sum(right)), len(right))
        gain = paired_difference(right, alone)
        print(
            f"  voters {voters:>2} sharpness {sharpness:>4g}: {np.mean(right):.1%} "
            f"({low:.1%} to {high:.1%}), against the nearest {100 * gain[0]:+.1f} "
            f"({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})"
        )
    return {
        "samples": len(samples),
        "questions": len(questions),
        "majority": float(np.mean(guessed)),
        "right": {f"{v}/{s:g}": float(np.mean(right)) for (v, s), right in found.items()},
    }


def rights(
    questions: Sequence[NewSample],
    near: Sequence[Sequence[Sample]],
    voters: int,
    sharpness: float,
) -> list[float]:
    """Return 1 for each right answer of a vote and 0 for each wrong one."""
    return [
        float(is_right(vote(found, voters=voters, sharpness=sharpness).sample["answer"], question))
        for question, found in zip(questions, near, strict=True)
    ]


def neighbours(
    samples: Sequence[NewSample], questions: Sequence[NewSample], given: argparse.Namespace
) -> list[list[Sample]]:
    """Return the nearest samples of each question, the nearest first."""
    known = vectors([sample.question for sample in samples], given)
    asked = vectors([question.question for question in questions], given)
    alike = asked @ known.T
    order = np.argsort(-alike, axis=1)[:, : max(VOTERS)]
    return [
        [
            {
                "id": str(column),
                "question": samples[column].question,
                "answer": samples[column].answer,
                "domain": samples[column].domain,
                "similarity": float(alike[row, column]),
            }
            for column in columns
        ]
        for row, columns in enumerate(order)
    ]


def vectors(texts: Sequence[str], given: argparse.Namespace) -> np.ndarray[Any, Any]:
    """Return the unit vectors of texts, from the cache where it has them."""
    config = load_config()
    name = given.embedder or config.embedder
    digest = hashlib.sha256(json.dumps([name, *texts]).encode()).hexdigest()[:16]
    path: Path = given.cache / f"{digest}.npy"
    if not path.is_file():
        embedder = local_embedder(partial(resolve, name, cache_dir=config.home), name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(asyncio.run(embedder.embed(list(texts))), dtype=np.float32))
    found: np.ndarray[Any, Any] = np.load(path)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
