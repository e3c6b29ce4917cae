"""Going from one of 64 resident adapters to another, against peft's `set_adapter`."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.peft_adapters import in_peft, with_adapters
from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.paired_runs import Case

RESIDENT = 64
SWITCHES = 20
"""Switches of one measurement; they are too short to be timed alone."""


@contextmanager
def cases(setup: Setup) -> Generator[list[Case]]:
    """Yield the one case: milliseconds for a switch, before any token is computed."""
    adapted = with_adapters(setup.model, RESIDENT)
    with tempfile.TemporaryDirectory() as folder:
        peft = in_peft(setup.model, adapted, Path(folder))
    names = itertools.cycle(adapted.adapters)

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(SWITCHES):
            with adapted.resident.rows([next(names)]):
                pass
        return 1000 * (time.perf_counter() - began) / SWITCHES

    def theirs() -> float:
        began = time.perf_counter()
        for _ in range(SWITCHES):
            peft.set_adapter(next(names))
        return 1000 * (time.perf_counter() - began) / SWITCHES

    yield [
        Case(
            name=f"switch among {RESIDENT} adapters",
            ours=ours,
            peer=theirs,
            peer_name=f"peft {version('peft')} set_adapter, all adapters loaded",
            unit="ms",
            least_ratio=20,
            most_ours=2,
        )
    ]
