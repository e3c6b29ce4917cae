"""Compares this project with other libraries, side by side in one process, in turns."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.tools.benchmark_options import EXAMPLE, Setup, add_options, read, tell
from benchmarks.tools.paired_runs import PAIRS, Case, measure
from rttc_graph.errors import RttcError

NAMES = (
    "bestofn",
    "concurrent",
    "decoding",
    "growth",
    "ingest",
    "load",
    "mixed",
    "overhead",
    "panels",
    "ray",
    "recall",
    "replicas",
    "search",
    "switch",
    "ttt",
    "weights",
)
"""Modules of `benchmarks.cases` with a function `cases(setup)`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print a table; 2 for a misuse."""
    options = _options(arguments)
    setup, rows = read(options), list[dict[str, Any]]()
    try:
        for name in options.names:
            for row in measured(name, setup):
                rows.append(row)
                if options.json:  # row by row, so that a run cut short leaves what it measured
                    options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    except RttcError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    finally:
        if rows:
            print(table(rows))
    return 0


def measured(name: str, setup: Setup) -> Iterator[dict[str, Any]]:
    """Yield the rows of a benchmark, and tell about each."""
    opened: Callable[[Setup], AbstractContextManager[Iterable[Case | dict[str, Any]]]]
    opened = importlib.import_module(f"benchmarks.cases.{name}").cases
    tell(f"{name}: preparing")
    with opened(setup) as cases:
        for case in cases:
            if isinstance(case, dict):  # a row already, of pairs that are no repetitions
                yield case
                continue
            tell(f"{name}: {case.name}")
            yield measure(case, pairs=setup.pairs)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows for people."""
    lines = [f"{'case':<50} {'ours':>9} {'peer':>9} unit     ratio (spread)        target"]
    for row in rows:
        low, high = row["spread"]
        met = f"{row['target']}: {'met' if row['met'] else 'MISSED'}" if row["target"] else "-"
        lines.append(
            f"{row['case']:<50} {row['ours']:>9.3g} {row['peer']:>9.3g} {row['unit']:<8} "
            f"{row['ratio']:>5.2f} ({low:.2f} to {high:.2f})  {met}"
        )
        lines.append(f"    against {row['peer_name']}")
    return "\n".join(lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"at least {PAIRS}")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.pairs < PAIRS:
        parser.error(f"--pairs {options.pairs} is too few for a median: at least {PAIRS}")
    return options


if __name__ == "__main__":
    sys.exit(main())
