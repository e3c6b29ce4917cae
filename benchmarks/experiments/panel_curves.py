"""Panels of a small model on tasks that one draw of it solves some of the time.

Makes questions with samples of some tasks, checks on a few of them which tasks leave room (one draw
is right 10 to 60 % of the time), draws a panel for each question once, and prints what strategies
make of it: any-of-N, majority, best-of-N, weighted, adaptive and mixed, with paired intervals. It
can be broken off at any time: the file of records goes on where it was, and `--report-only` works
out the figures of what is there.

    python -m benchmarks.experiments.panel_curves build/panels --n 16 --gsm8k gsm8k.train.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rttc_graph.cli.screen import ScreenWatcher
from rttc_graph.evaluation.panels.panel_figures import PanelFigures
from rttc_graph.evaluation.panels.panel_specs import PanelSpec, read_spec
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.jobs.measure_policies import Evaluation, EvaluationWanted, evaluate
from rttc_graph.support.extras import require

SEED = 700_000
SAMPLES = 60
"""Solved questions of each task, for draws with samples."""

CHECKED = 8
"""Answers to each question of the check."""

ROOM = (0.1, 0.6)
"""Accuracy of one draw between which a task leaves room for a panel."""

GYM: Mapping[str, dict[str, Any]] = {
    "basic_arithmetic": {"max_digits": 2, "max_terms": 4},
    "calendar_arithmetic": {},
    "chain_sum": {"max_terms": 3, "max_digits": 2},
    "count_bits": {"max_n": 64},
    "gcd": {"max_value": 40},
    "lcm": {"max_value": 20},
    "leg_counting": {"max_animals": 3},
    "letter_counting": {"min_words": 3, "max_words": 4},
    "simple_equations": {},
    "time_intervals": {},
}
"""Tasks of reasoning-gym whose answers are short."""

ORDER = "\nGive only the final answer, nothing else."
REASON = "\nThink step by step, in few words. End with #### and the number."

_CALCULATOR = re.compile(r"<<[^>]*>>")
"""Notes for a calculator in the answers of some copies of GSM8K."""

_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn")
_THINGS = ("apples", "marbles", "stamps", "books", "coins", "shells")


def reasoned_problems(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield word problems of three steps, each with its steps."""
    dice = random.Random(seed)
    for _ in range(count):
        name, other = dice.sample(_NAMES, 2)
        thing, unneeded = dice.sample(_THINGS, 2)
        a, b, c, d = (dice.randint(2, 12) for _ in range(4))
        bought, given = a * b, dice.randint(1, a * b - 1)
        left = bought - given
        yield dice.choice(
            (
                (
                    f"{name} buys {a} boxes with {b} {thing} each, gives {given} {thing} to "
                    f"{other} and then finds {c} more. {name} also has {d} {unneeded}. How many "
                    f"{thing} does {name} have now?",
                    f"{a} * {b} = {bought}. {bought} - {given} = {left}. "
                    f"{left} + {c} = {left + c}. #### {left + c}",
                ),
                (
                    f"{name} earns {a} dollars an hour and works {b} hours a day for {c} days. "
                    f"{name} then spends {d} dollars. How many dollars are left?",
                    f"{a} * {b} = {bought}. {bought} * {c} = {bought * c}. "
                    f"{bought * c} - {d} = {bought * c - d}. #### {bought * c - d}",
                ),
                (
                    f"{other} has {a} {thing}. {name} has {b} times as many {thing} as "
                    f"{other}, and {c} more. How many {thing} do they have together?",
                    f"{a} * {b} = {bought}. {bought} + {c} = {bought + c}. "
                    f"{bought + c} + {a} = {bought + c + a}. #### {bought + c + a}",
                ),
            )
        )


REASONED = ("gsm8k", "reasoned_problems")
"""Tasks whose answers are worked out in steps before the number."""


def word_problems(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield word problems of one step, some with a number that is not needed."""
    dice = random.Random(seed)
    for _ in range(count):
        name, other = dice.sample(_NAMES, 2)
        thing, unneeded = dice.sample(_THINGS, 2)
        a, b, c = (dice.randint(3, 30) for _ in range(3))
        yield dice.choice(
            (
                (
                    f"{name} has {a + b} {thing} and {c} {unneeded}. {name} gives {b} {thing} to "
                    f"{other}. How many {thing} does {name} have left?",
                    str(a),
                ),
                (
                    f"{name} has {a} {thing}. {other} has {b} more {thing} than {name}. How many "
                    f"{thing} does {other} have?",
                    str(a + b),
                ),
                (
                    f"There are {a} boxes with {b} {thing} each and {c} {unneeded}. How many "
                    f"{thing} are there?",
                    str(a * b),
                ),
                (
                    f"{name} had some {thing}, found {b} more and then had {a + b}. How many "
                    f"{thing} did {name} have at first?",
                    str(a),
                ),
            )
        )


def gym_questions(task: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield questions of a task of reasoning-gym with their answers, each once."""
    library = require("reasoning_gym", extra="puzzles", purpose="the questions")
    seen: set[str] = set()
    for entry in library.create_dataset(task, seed=seed, size=20 * count, **GYM[task]):
        question, answer = str(entry["question"]).strip(), str(entry["answer"]).strip()
        if question not in seen and answer:
            seen.add(question)
            yield question, answer
        if len(seen) == count:
            return


def file_questions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield questions of a file of rows with their answers, steps included."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = cast("dict[str, str]", json.loads(line))
            yield row["question"], _CALCULATOR.sub("", row["answer"])


def write_task(folder: Path, rows: Sequence[tuple[str, str]], questions: int) -> Path:
    """Write a task's samples and questions, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # The same samples whatever the number of questions, so that none is ever among these.
    parts = {"samples": rows[:SAMPLES], "questions": rows[SAMPLES : SAMPLES + questions]}
    for name, part in parts.items():
        lines = [
            json.dumps(
                {"question": question + order, "answer": answer, "domain": folder.name},
                ensure_ascii=False,
            )
            for question, answer in part
            for order in (REASON if "####" in answer else ORDER,)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_tasks(out: Path, wanted: Sequence[str], questions: int, gsm8k: Path | None) -> list[Path]:
    """Write all wanted tasks, and return their folders."""
    every: dict[str, list[tuple[str, str]]] = {}
    if "word_problems" in wanted:
        every["word-problems"] = list(dict(word_problems(4 * (questions + SAMPLES), SEED)).items())
    if "reasoned_problems" in wanted:
        rows = list(dict(reasoned_problems(2 * (questions + SAMPLES), SEED)).items())
        every["reasoned-problems"] = rows
    if gsm8k is not None and "gsm8k" in wanted:
        every["gsm8k"] = list(file_questions(gsm8k))
    for task in GYM:
        if task in wanted:
            rows = list(gym_questions(task, questions + SAMPLES, SEED))
            every[task.replace("_", "-")] = rows
    return [write_task(out / name, rows, questions) for name, rows in every.items()]


def run(
    config: InstallationConfig,
    folders: Sequence[Path],
    specs: Sequence[PanelSpec],
    *,
    limit: int,
    records: Path,
    report: Path | None = None,
    rejudge: bool = False,
    cross_fit: bool = False,
) -> Evaluation:
    """Draw what is missing, and return the figures."""
    wanted = EvaluationWanted(
        policies=(),
        panels=specs,
        paths=[] if rejudge else [str(folder) for folder in folders],
        limit=limit,
        records=records,
        report=report,
        rejudge=rejudge,
        cross_fit=cross_fit,
        plot=records.with_suffix(".png"),
    )
    return evaluate(config, wanted, ScreenWatcher())


def with_room(groups: Sequence[PanelFigures]) -> dict[str, tuple[float, float]]:
    """Return the accuracy of one draw and any-of-N by task, the best source of each."""
    found: dict[str, tuple[float, float]] = {}
    for group in groups[1:] or groups:
        alone = [one for one in group["points"] if len(one["sources"]) == 1]
        # The mean over all single draws is nearer to the truth than the first draw alone.
        one = max(point["accuracy"] for point in alone if point["n"] == 1)
        every = max(point["any"] for point in alone)
        found[str(group["data_set"])] = one, every
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the questions, check the tasks, draw, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("out", type=Path, help="folder for questions, records and the report")
    parser.add_argument("--tasks", default=",".join((*REASONED, "word_problems", *GYM)))
    parser.add_argument("--gsm8k", type=Path, help="file of rows with question and answer")
    parser.add_argument("--questions", type=int, default=40, help="of each task")
    parser.add_argument("--n", type=int, default=16, help="answers of a panel of one source")
    parser.add_argument("--from", dest="sources", default="direct,rag")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--k", type=int, default=3, help="samples in a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--check", type=int, default=0, help="only check so many questions each")
    parser.add_argument("--report-only", action="store_true", help="draw nothing more")
    given = parser.parse_args(arguments)
    config = load_config(
        model=given.model,
        dtype=given.dtype,
        k=given.k,
        max_new_tokens=given.max_new_tokens,
        search_from=given.sources,
    )
    folders = (
        []
        if given.report_only
        else write_tasks(given.out, given.tasks.split(","), given.questions, given.gsm8k)
    )
    if given.check:
        found = run(
            config,
            folders,
            [read_spec(f"majority@{CHECKED}")],
            limit=given.check,
            records=given.out / "check.jsonl",
        )
        for task, (one, every) in with_room(found.panels).items():
            room = "room" if ROOM[0] <= one <= ROOM[1] else "no room"
            print(f"{task}: one draw {one:.0%}, any of {CHECKED} {every:.0%}: {room}")
        return 0
    names = ("majority", "best_of_n", "weighted", "adaptive", "mixed")
    several = len(given.sources.split(",")) > 1
    specs = [read_spec(f"{name}@{given.n}") for name in names if several or name != "mixed"]
    found = run(
        config,
        folders,
        specs,
        limit=given.questions,
        records=given.out / "records.jsonl",
        report=given.out / "report",
        rejudge=given.report_only,
        cross_fit=True,
    )
    print(f"report: {found.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
