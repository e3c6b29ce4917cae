"""What a benchmark is run with; the sizes are small enough for minutes, more is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from benchmarks.tools.paired_runs import PAIRS
from rttc_graph.installation.config import InstallationConfig, load_config
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.settings import TrainingDtype

EXAMPLE = """
examples:
  python -m benchmarks switch overhead --json result.json
  python -m benchmarks search --samples 100000
  python -m benchmarks growth --sizes 1000 10000 100000 500000
  python -m benchmarks ttt --data banking77.jsonl clinc150.jsonl --questions 100
"""


def _home() -> Path:
    return Path(os.environ.get("RTTC_HOME", "~/.rttc")).expanduser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Models, data and sizes; every benchmark reads the part that it needs."""

    home: Path
    """Folder of an installation: its models, and its embedded Postgres unless a DSN is given."""
    model: Path
    embedder: Path
    database_url: str | None = None
    pairs: int = PAIRS
    samples: int = 20_000
    """In the knowledge base, for `search`."""
    sizes: tuple[int, ...] = (1_000, 10_000)
    """Samples at which `growth` stops and measures."""
    rows: int = 2_000
    """Stored in one measurement of `ingest`."""
    queries: int = 50
    """Searched or looked up in one measurement, of which the median counts."""
    states: int = 1_000
    """In the query-state cache, for `recall`."""
    data: tuple[Path, ...] = ()
    """Files of solved questions, for `ttt`."""
    questions: int = 5
    """Of each file."""
    minutes: float = 30.0
    """Longest time of `ttt` with each peer."""
    training_dtype: TrainingDtype = "auto"
    """Type in which `ttt` multiplies, by us and by the others."""
    k: int = 8
    tokens: int = 24
    """Longest answer where answers are timed."""
    clients: int = 32
    """Clients of `replicas`: two batches of 16 rows."""
    asks: int = 4
    """Questions of each of them, one after the other."""

    def config(self, database_url: str, **more: Any) -> InstallationConfig:
        """Return the configuration of an installation on one thread of the CPU."""
        return load_config(
            home=self.home,
            database_url=database_url,
            model=str(self.model),
            embedder=str(self.embedder),
            device="cpu",
            threads=1,
            **more,
        )


_DEFAULTS = {field.name: field.default for field in fields(Setup)}


def read(arguments: argparse.Namespace) -> Setup:
    """Return the setup that the arguments describe."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Setup)}
    home = given["home"] = given["home"] or _home()
    given["model"] = given["model"] or home / "models" / "SmolLM2-135M-Instruct"
    given["embedder"] = given["embedder"] or home / "models" / "all-MiniLM-L6-v2"
    given["sizes"] = tuple(sorted(given["sizes"]))
    given["data"] = tuple(given["data"])
    return Setup(**given)


def installed_engine(setup: Setup, dtype: str = "auto") -> LocalEngine:
    """Return the policy model's engine as an installation has it, on one thread of the CPU."""
    return LocalEngine(
        setup.model,
        device="cpu",
        dtype=dtype,
        threads=1,
        prefix_cache_bytes=InstallationConfig.model_fields["prefix_cache_bytes"].default,
    )


def tell(progress: str) -> None:
    """Say how far a benchmark is, beside its results."""
    print(progress, file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field."""
    for flag, text in (
        ("--home", "folder of the installation; RTTC_HOME by default"),
        ("--model", "folder of the policy model; SmolLM2 of the installation by default"),
        ("--embedder", "folder of the embedder; MiniLM of the installation by default"),
    ):
        parser.add_argument(flag, type=Path, help=text)
    parser.add_argument("--database-url", help="DSN of a server; the embedded one by default")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="ttt, weights: files of solved questions"
    )
    parser.add_argument(
        "--sizes", type=_count, nargs="+", default=_DEFAULTS["sizes"], help="growth: samples"
    )
    parser.add_argument(
        "--minutes", type=float, default=_DEFAULTS["minutes"], help="ttt: longest, each peer"
    )
    parser.add_argument(
        "--training-dtype",
        choices=get_args(TrainingDtype),
        default=_DEFAULTS["training_dtype"],
        help="ttt: type of the products, of all sides; auto as an installation has it",
    )
    for name, text in (
        ("samples", "search: in the knowledge base"),
        ("rows", "ingest: stored in one measurement"),
        ("queries", "search, recall: in one measurement"),
        ("states", "recall: in the query-state cache"),
        ("questions", "ttt, weights: of each file"),
        ("k", "ttt: samples to train on; search: neighbours"),
        ("tokens", "concurrent, bestofn, weights, replicas: longest answer"),
        ("clients", "replicas: that ask at once"),
        ("asks", "replicas: of each client"),
    ):
        default = _DEFAULTS[name]
        parser.add_argument(
            f"--{name}", type=_count, default=default, help=f"{text} (default: {default})"
        )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number
