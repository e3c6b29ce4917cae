"""Runs benchmarks by name: `python -m benchmarks switch overhead --json result.json`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.pairs import PAIRS, Case, measure

NAMES = ("mixed", "overhead", "switch")
"""Modules of this package with a function `cases(model)`."""


def main() -> None:
    """Measure what was asked for, and print a table."""
    options = _options()
    rows = [row for name in options.names for row in _measured(name, options)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _measured(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    opened: Callable[[Path], AbstractContextManager[list[Case]]]
    opened = importlib.import_module(f"benchmarks.{name}").cases
    with opened(options.model) as cases:
        for case in cases:
            print(f"{name}: {case.name}", flush=True)
            yield measure(case, pairs=options.pairs)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people."""
    lines = [f"{'case':<44} {'ours':>9} {'peer':>9} unit    ratio (spread)        target"]
    for row in rows:
        low, high = row["spread"]
        met = "met" if row["met"] else "MISSED"
        lines.append(
            f"{row['case']:<44} {row['ours']:>9.3g} {row['peer']:>9.3g} {row['unit']:<6} "
            f"{row['ratio']:>6.2f} ({low:.2f} to {high:.2f})  {row['target']}: {met}"
        )
        lines.append(f"    against {row['peer_name']}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    home = Path(os.environ.get("RTTC_HOME", "~/.rttc")).expanduser()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"at least {PAIRS}")
    parser.add_argument(
        "--model",
        type=Path,
        default=home / "models" / "SmolLM2-135M-Instruct",
        help="folder of the policy model",
    )
    options = parser.parse_args()
    if options.pairs < PAIRS:
        parser.error(f"--pairs {options.pairs} is too few for a median: at least {PAIRS}")
    return options


if __name__ == "__main__":
    main()
