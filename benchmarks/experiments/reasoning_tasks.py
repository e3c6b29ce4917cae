"""Solved questions of many reasoning-gym tasks, as training data for a reward model.

Each task is a domain of its own. The seed is far from those of the demo, so that no question of
the demo or of its tests is among them.

    python -m benchmarks.experiments.reasoning_tasks build/reasoning.jsonl --per-task 60
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.tools.reasoning_puzzles import TASKS
from rttc_graph.evaluation.scorers import REASONING_GYM_KEY
from rttc_graph.support.extras import require

SEED = 400_000

SMALL: dict[str, dict[str, Any]] = {
    "aiw": {},
    "base_conversion": {},
    "basic_arithmetic": {"max_digits": 2, "max_terms": 3},
    "binary_alternation": {},
    "calendar_arithmetic": {},
    "color_cube_rotation": {},
    "count_bits": {"max_n": 1000},
    "family_relationships": {},
    "gcd": {"max_value": 100},
    "isomorphic_strings": {},
    "knights_knaves": {},
    "lcm": {"max_value": 30},
    "leg_counting": {"max_animals": 4},
    "letter_jumble": {"max_words": 4, "min_words": 3},
    "number_sorting": {"max_numbers": 5},
    "palindrome_generation": {},
    "prime_factorization": {"max_value": 200},
    "ransom_note": {},
    "simple_equations": {},
    "simple_geometry": {},
    "spell_backward": {},
    "syllogism": {},
    "time_intervals": {},
    "word_ladder": {},
    "word_sorting": {"max_words": 5, "min_words": 3},
}
"""Tasks with short questions and answers, in sizes near what small models can do."""


def rows(per_task: int, seed: int) -> Iterable[dict[str, Any]]:
    """Yield rows that `rttc kb ingest` and `rttc reward train` read."""
    library = require("reasoning_gym", extra="puzzles", purpose="the training data")
    tasks = {task.task: (task.domain, dict(task.config)) for task in TASKS}
    tasks |= {name: (name.replace("_", "-"), config) for name, config in SMALL.items()}
    for name, (domain, config) in tasks.items():
        seen: set[str] = set()
        data = library.create_dataset(name, seed=seed, size=20 * per_task, **config)
        for entry in cast("Iterable[dict[str, Any]]", data):
            question = str(entry["question"]).strip()
            if question in seen or not str(entry["answer"]).strip():
                continue
            seen.add(question)
            metadata = json.loads(json.dumps(entry["metadata"], default=str))
            yield {
                "domain": domain,
                "question": question,
                "answer": str(entry["answer"]).strip(),
                "metadata": {REASONING_GYM_KEY: metadata},
            }
            if len(seen) == per_task:
                break


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("out", type=Path, help="JSONL file to write")
    parser.add_argument("--per-task", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    given = parser.parse_args(arguments)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with given.out.open("w", encoding="utf-8") as file:
        for row in rows(given.per_task, given.seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    print(f"{count} rows in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
