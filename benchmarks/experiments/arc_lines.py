"""Lines of ARC-1D as a folder for `rttc eval`: a rule is a domain, its solved lines are samples.

So a question is asked as in ARC: a few pairs of lines show the rule, and a new line is to be
changed by it. The rules are those of reasoning-gym.

    python -m benchmarks.experiments.arc_lines build/arc-lines
    RTTC_TTT_SHOWN=3 rttc eval build/arc-lines --policies rag,ttt --report out
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.tools.split_data import write_folder
from rttc_graph.protocols import NewSample
from rttc_graph.support.extras import require

_TRIES = 200
"""Lines drawn for each one wanted: a rule gives none where it finds no room, and repeats some."""


def lines_of(rule: str, count: int, *, cells: int, seed: int) -> Iterator[NewSample]:
    """Yield so many different lines with what the rule makes of them; fewer where it has no more.

    Args:
        rule: Name of the rule in reasoning-gym.
        count: Lines wanted.
        cells: Cells of a line.
        seed: Seed of the lines; the rule's name is added.
    """
    task, options = _rules()[rule]
    rng, seen = random.Random(f"{seed} {rule}"), set[str]()
    for _ in range(_TRIES * count):
        made: dict[str, list[int]] = task(rng, cells, **options) or {"input": [], "output": []}
        question, answer = (" ".join(map(str, made[side])) for side in ("input", "output"))
        if not question or question in seen:
            continue
        seen.add(question)
        yield NewSample(question=question, answer=answer, domain=rule)
        if len(seen) == count:
            return


def _rules() -> dict[str, tuple[Any, dict[str, Any]]]:
    require("reasoning_gym", extra="puzzles", purpose="the rules")
    found: dict[str, tuple[Any, dict[str, Any]]] = import_module(
        "reasoning_gym.arc.arc_1d_tasks"
    ).ARC_1D_TASKS
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=8, help="of each rule, default: %(default)s")
    parser.add_argument("--questions", type=int, default=1, help="of each rule, default: 1")
    parser.add_argument("--cells", type=int, default=10, help="of a line, default: %(default)s")
    parser.add_argument("--seed", type=int, default=1_400_000)
    given = parser.parse_args(argv)
    samples, questions = list[NewSample](), list[NewSample]()
    for rule in _rules():
        wanted = given.samples + given.questions
        lines = list(lines_of(rule, wanted, cells=given.cells, seed=given.seed))
        if len(lines) == wanted:
            samples += lines[: given.samples]
            questions += lines[given.samples :]
    write_folder(given.folder, samples, questions)


if __name__ == "__main__":
    main()
