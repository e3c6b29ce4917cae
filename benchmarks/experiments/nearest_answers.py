"""Which answer the samples themselves give best: of the nearest, or of a vote, and which vote.

Each question is asked of the samples that a split leaves, or where the file has a neighbour
NAME_asked, those questions of all its rows; nothing but the embedder runs. Vectors are kept in a
folder, so that a second run takes seconds.

    python -m benchmarks.experiments.nearest_answers FILE.jsonl ... --cache FOLDER

With several embedders (an installed name, a folder, or a name of `peer_embedders`) each is compared
with the first, question by question:

    python -m benchmarks.experiments.nearest_answers FILE.jsonl ... --cache FOLDER \
        --samples 3000 --questions 300 --embedder all-minilm-l6-v2 --embedder tfidf
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.peer_embedders import PEERS, Encoder, Matrix, open_encoder
from benchmarks.tools.split_data import split
from rttc_graph.evaluation.intervals import paired_difference, wilson_interval
from rttc_graph.evaluation.scorers import is_right
from rttc_graph.installation.config import load_config
from rttc_graph.nodes.nearest import vote
from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Sample
from rttc_graph.support.canonical import VOTE_SHARPNESS as AS_INSTALLED

VOTERS = (1, 2, 3, 4, 5, 8, 16, 32)
SHARPNESS = (0.0, 1.0, 4.0, 8.0, 16.0, 32.0)

LARGEST_SHARE = 0.3
"""Share of a file that is asked at most, so that a small one keeps samples."""

RECALL_AT = 8
TIMED = 256
"""Texts that are embedded to measure the pace."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the share of right answers by voters and sharpness, or by embedder, for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--questions", type=int, default=600, help="at most; default: %(default)s")
    parser.add_argument("--samples", type=int, help="at most; default: all that are left")
    parser.add_argument("--seed", type=int, default=0, help="of the split; default: %(default)s")
    parser.add_argument(
        "--embedder",
        action="append",
        help=f"name, folder, or one of {', '.join(PEERS)}; may be repeated; the configured one",
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for the vectors")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    names = given.embedder or [load_config().embedder]
    encoders = {name: open_encoder(name) for name in names}
    figures: dict[str, Any] = {}
    for file in given.files:
        samples, questions = material(file, given)
        print(f"{file.stem}: {len(samples)} samples, {len(questions)} questions")
        if len(encoders) == 1:
            [(name, encoder)] = encoders.items()
            near = neighbours(samples, questions, name, encoder, given.cache)
            figures[file.stem] = measure(samples, questions, near)
        else:
            figures[file.stem] = compare(samples, questions, encoders, given.cache)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def material(file: Path, given: argparse.Namespace) -> tuple[list[NewSample], list[NewSample]]:
    """Return samples and questions of a file."""
    rows = list(read_samples(file))
    asked = file.with_name(f"{file.stem}_asked{file.suffix}")
    if asked.is_file():
        return rows, list(read_samples(asked))
    most = min(given.questions, int(LARGEST_SHARE * len(rows)))
    samples, questions = split(rows, samples=None, questions=most, seed=given.seed)
    return samples[: given.samples], questions


def measure(
    samples: Sequence[NewSample], questions: Sequence[NewSample], near: list[list[Sample]]
) -> dict[str, Any]:
    """Return and print the figures of each vote."""
    found = {
        (voters, sharpness): rights(questions, near, voters, sharpness)
        for voters in VOTERS
        for sharpness in (SHARPNESS if voters > 1 else (0.0,))
    }
    alone = found[1, 0.0]
    majority = max({s.answer for s in samples}, key=[s.answer for s in samples].count)
    guessed = [float(is_right(majority, question)) for question in questions]
    print(f"  majority answer {majority[:40]!r}: {np.mean(guessed):.1%}")
    for (voters, sharpness), right in found.items():
        low, high = wilson_interval(round(sum(right)), len(right))
        gain = paired_difference(right, alone)
        print(
            f"  voters {voters:>2} sharpness {sharpness:>4g}: {np.mean(right):.1%} "
            f"({low:.1%} to {high:.1%}), against the nearest {_points(gain)}"
        )
    return {
        "samples": len(samples),
        "questions": len(questions),
        "majority": float(np.mean(guessed)),
        "right": {f"{v}/{s:g}": float(np.mean(right)) for (v, s), right in found.items()},
    }


def compare(
    samples: Sequence[NewSample],
    questions: Sequence[NewSample],
    encoders: dict[str, Encoder],
    cache: Path,
) -> dict[str, Any]:
    """Return and print what each embedder finds, and how it does against the first."""
    voters = RttcSettings().nearest_votes
    rows: dict[str, dict[str, list[float]]] = {}
    figures: dict[str, Any] = {}
    for name, encoder in encoders.items():
        near = neighbours(samples, questions, name, encoder, cache)
        rows[name] = {
            "nearest": rights(questions, near, 1, 0.0),
            f"vote of {voters}": rights(questions, near, voters, AS_INSTALLED),
            f"recall@{RECALL_AT}": [
                float(any(is_right(s["answer"], question) for s in found[:RECALL_AT]))
                for question, found in zip(questions, near, strict=True)
            ],
        }
        first = next(iter(rows.values()))
        pace = texts_a_second(encoder, [q.question for q in (*questions, *samples)][:TIMED])
        figures[name] = {"texts_a_second": pace}
        print(f"  {name}: {pace:,.0f} texts a second")
        for what, right in rows[name].items():
            gain = paired_difference(right, first[what])
            figures[name][what] = [float(np.mean(right)), *gain]
            print(f"    {what:<12} {np.mean(right):.1%}, against the first {_points(gain)}")
    return figures


def texts_a_second(encoder: Encoder, texts: Sequence[str]) -> float:
    """Return the texts that one second of one core embeds, without loading."""
    encoder.questions(texts[:16])
    began = time.process_time()
    for first in range(0, len(texts), 32):
        encoder.questions(texts[first : first + 32])
    return len(texts) / max(time.process_time() - began, 1e-9)


def _points(gain: tuple[float, float, float]) -> str:
    return f"{100 * gain[0]:+.1f} ({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})"


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
    samples: Sequence[NewSample],
    questions: Sequence[NewSample],
    name: str,
    encoder: Encoder,
    cache: Path,
) -> list[list[Sample]]:
    """Return the nearest samples of each question, the nearest first."""
    known_texts = [sample.question for sample in samples]
    asked_texts = [question.question for question in questions]
    encoder.fit(known_texts)
    if encoder.is_static:
        known = kept(known_texts, name, encoder.samples, cache)
        alike = kept(asked_texts, name, encoder.questions, cache) @ known.T
    else:
        product = encoder.questions(asked_texts) @ encoder.samples(known_texts).T
        alike = np.asarray(product.todense(), dtype=np.float32)
        # Scores of BM25 have no scale: the best sample of a question counts as the same text.
        alike /= np.maximum(alike.max(1, keepdims=True), 1.0)
    order = np.argsort(-alike, axis=1, kind="stable")[:, : max(VOTERS)]
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


def kept(texts: Sequence[str], name: str, encode: Any, cache: Path) -> Matrix:
    """Return the unit vectors of texts, from the cache where it has them."""
    digest = hashlib.sha256(json.dumps([name, *texts]).encode()).hexdigest()[:16]
    path = cache / f"{digest}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, encode(texts))
    return np.load(path)


if __name__ == "__main__":
    raise SystemExit(main())
