"""Split a file of solved questions into samples for the knowledge base and questions to ask.

No question is among the samples, not even in other letter case or spacing; the same file
and seed give the same split.

    python -m benchmarks.tools.split_data banking77.train.jsonl build/banking --samples 9000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rttc_graph.errors import RttcError
from rttc_graph.evaluation.scorers import normalised
from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples

MOST_SAMPLES = 9_000
"""Taken where nothing else is said, so that large sets do not make everything slow."""


def split(
    rows: Iterable[NewSample], *, samples: int | None, questions: int, seed: int
) -> tuple[list[NewSample], list[NewSample]]:
    """Return samples and questions; rows with the same question all go to one side.

    Args:
        rows: Solved questions.
        samples: How many samples; `None` for all that are left, at most `MOST_SAMPLES`.
        questions: How many questions.
        seed: Of the order.

    Raises:
        ValueError: There are too few rows.
    """
    groups: dict[str, list[NewSample]] = {}
    for row in rows:
        groups.setdefault(normalised(row.question), []).append(row)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    asked = [groups[text][0] for text in order[:questions]]
    left = [row for text in order[questions:] for row in groups[text]]
    solved = left[: MOST_SAMPLES if samples is None else samples]
    needed = 1 if samples is None else samples
    if len(asked) < questions or len(solved) < needed:
        raise ValueError(
            f"{len(groups)} different questions make at most {len(asked)} questions and "
            f"{len(solved)} samples: ask for fewer than {questions} and {needed}"
        )
    return solved, asked


def write_rows(path: Path, rows: Sequence[NewSample]) -> None:
    """Write JSONL that `rttc kb ingest` and `rttc eval` read."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            fields = {
                "id": row.external_id,
                "domain": row.domain,
                "question": row.question,
                "answer": row.answer,
                "metadata": row.metadata,
            }
            present = {name: value for name, value in fields.items() if value}
            file.write(json.dumps(present, ensure_ascii=False) + "\n")


def write_folder(folder: Path, samples: Sequence[NewSample], asked: Sequence[NewSample]) -> None:
    """Write `samples.jsonl` and `questions.jsonl` into a folder, as `rttc eval` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "samples.jsonl", samples)
    write_rows(folder / "questions.jsonl", asked)
    print(f"{len(samples)} samples and {len(asked)} questions in {folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 for a misuse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("file", help="JSONL, CSV or Parquet file of solved questions")
    parser.add_argument("out", type=Path, help="folder for samples.jsonl and questions.jsonl")
    parser.add_argument("--samples", type=int, help=f"default: all others, at most {MOST_SAMPLES}")
    parser.add_argument("--questions", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    given = parser.parse_args(arguments)
    if given.questions < 1 or (given.samples is not None and given.samples < 1):
        parser.error("--samples and --questions must be at least 1")
    try:
        rows = read_samples(given.file)
        solved, asked = split(
            rows, samples=given.samples, questions=given.questions, seed=given.seed
        )
    except (RttcError, ValueError) as exc:
        parser.error(str(exc))
    write_folder(given.out, solved, asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
