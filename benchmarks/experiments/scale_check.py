"""The simulation of replicas against a real server: predicted and measured seconds side by side.

A round measures what a question takes with 1, 2, 4 and 8 clients that ask one after the other,
before and after its load; the load asks at random times, as fast as a share of what the server can
do, and the simulation answers questions of the very same times, whose lengths differ as those of
one client did. It knows nothing else of the load. Rounds follow each other until the time is over,
so that a busy machine slows both sides; medians of the rounds count.

    python -m benchmarks.experiments.scale_check --random-model --json result.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import httpx

from benchmarks.cases.load import Asked, ask, client_of, endless, server
from benchmarks.tools.benchmark_options import EXAMPLE, Setup, add_options, read, tell
from benchmarks.tools.random_models import make_model
from benchmarks.tools.scale_model import Measured, Plan, simulate
from rttc_graph.serving.serve_options import ServeOptions

PLACES = ServeOptions().concurrency
"""Questions that the server answers at once; more of them wait."""

TOGETHER = tuple(dict.fromkeys((1, 2, PLACES // 2, PLACES)))
"""Numbers of clients whose times are measured; under most loads few questions are in hand."""

TURNS = 6
"""Questions of each client, before a load and after it. The first is not counted: all clients begin
together, and share a prompt's pass and a batch as questions at random times do not."""

PARTS = 240
"""Parts that the simulation cuts an answer into."""

AIM = 0.2
"""Largest relative difference of prediction and measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One load: what was measured, and what was predicted."""

    share: float
    """Of the questions a second that the server answers with all places taken."""
    alone: float
    full: float
    """Seconds of a question alone, and of one of as many as there are places; `TOGETHER` has the
    numbers between them."""
    rate: float
    throughput: float
    predicted_throughput: float
    p50: float
    predicted_p50: float
    p95: float
    predicted_p95: float


def main() -> None:
    """Print the rounds and the medians; exit with 1 where the aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.scale_check",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--load", type=int, default=80, help="questions of a load")
    parser.add_argument("--pairs", type=int, default=5, help="rounds, at most")
    parser.add_argument(
        "--most-minutes", type=float, default=7.0, help="begin no round that would end after them"
    )
    parser.add_argument("--random-model", action="store_true", help="one of ten thousand weights")
    parser.add_argument("--json", type=Path, help="also write the rounds here")
    add_options(parser)
    options = parser.parse_args()
    setup, found = read(options), list[Compared]()
    with ExitStack() as stack:
        if options.random_model:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            model = make_model(Path(folder) / "tiny", "tiny", device="cpu")
            setup = replace(setup, model=model)
        url = stack.enter_context(server(setup, queue=options.load))
        client = stack.enter_context(client_of(url))
        for one in _rounds(client, setup, options):
            found.append(one)
            print(_told(f"share {one.share:g}", [one]), flush=True)
            if options.json:
                rows = [asdict(row) for row in found]
                options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    shares = {share: [one for one in found if one.share == share] for share in options.shares}
    for share, compared in shares.items():
        verdict = "yes" if _is_met(compared) else "NO"
        print(_told(f"median, {share:g}", compared))
        print(f"prediction within {AIM:.0%} at {share:g}, of {len(compared)} rounds: {verdict}")
    sys.exit(0 if all(map(_is_met, shares.values())) else 1)


def _rounds(client: httpx.Client, setup: Setup, options: argparse.Namespace) -> Iterator[Compared]:
    questions = endless()
    asked = partial(ask, client, tokens=setup.tokens, policy="direct")
    _at(itertools.repeat(0.0, 2 * PLACES), questions, asked)  # a warm-up
    end, longest = time.monotonic() + 60 * options.most_minutes, 0.0
    for number in range(options.pairs):
        began = time.monotonic()
        if number and began + longest > end:
            tell(f"no time for round {number + 1} of {options.pairs}")
            return
        for share in options.shares:
            tell(f"round {number + 1} of {options.pairs}, share {share:g}")
            yield _round(number, share, questions, asked, options.load)
        longest = max(longest, time.monotonic() - began)


def _round(
    number: int, share: float, questions: Iterator[str], asked: partial[Asked], asks: int
) -> Compared:
    before = {count: _clients(count, questions, asked) for count in TOGETHER}
    rate = share * PLACES / statistics.fmean(before[PLACES])
    dice = random.Random(number)
    times = tuple(itertools.accumulate(dice.expovariate(rate) for _ in range(asks)))
    began = time.perf_counter()
    measured = [one.seconds for one in _at(times, questions, asked)]
    throughput = asks / (time.perf_counter() - began)
    seconds = {count: [*before[count], *_clients(count, questions, asked)] for count in TOGETHER}
    service = {count: statistics.fmean(found) for count, found in seconds.items()}
    lengths = tuple(one / service[1] for one in dice.choices(seconds[1], k=asks))
    predicted, ended = _predicted(times, lengths, service)
    return Compared(
        share=share,
        alone=service[1],
        full=service[PLACES],
        rate=rate,
        throughput=throughput,
        predicted_throughput=asks / ended,
        p50=statistics.median(measured),
        predicted_p50=statistics.median(predicted),
        p95=_p95(measured),
        predicted_p95=_p95(predicted),
    )


def _clients(count: int, questions: Iterator[str], asked: partial[Asked]) -> list[float]:
    """Return the seconds of the questions of so many clients, each asking one after the other."""
    turns = [list(itertools.islice(questions, TURNS)) for _ in range(count)]

    def client(own: Sequence[str]) -> list[Asked]:
        return [asked(question) for question in own]

    with ThreadPoolExecutor(count) as clients:
        found = list(clients.map(client, turns))
    _refuse_losses([one for own in found for one in own])
    return [one.seconds for own in found for one in own[1:]]


def _predicted(
    times: tuple[float, ...], lengths: tuple[float, ...], service: Mapping[int, float]
) -> tuple[Sequence[float], float]:
    """Return the simulation's seconds of each question, and when the last one was answered.

    Args:
        times: When the questions come, in seconds.
        lengths: What each takes against the mean.
        service: Mean seconds of a question by how many are in hand.
    """
    measured = Measured(
        tokens=PARTS,
        row_seconds=tuple((count, seconds / PARTS) for count, seconds in sorted(service.items())),
        most_rows=PLACES,
        load_seconds=0.0,
        recall_seconds=0.0,
    )
    plan = Plan(arrivals=times, lengths=lengths, topics=1, trained=1.0, times=measured)
    outcome = simulate(plan)
    return outcome.waits, outcome.ended


def _at(
    times: Iterator[float] | Sequence[float],
    questions: Iterator[str],
    asked: partial[Asked],
) -> list[Asked]:
    """Ask a question at each of the times, whether or not those before it are answered."""
    waits, began = [*times], time.perf_counter()

    def one(at: float, question: str) -> Asked:
        time.sleep(max(0.0, began + at - time.perf_counter()))
        late = time.perf_counter() - began - at
        found = asked(question)
        return replace(found, seconds=found.seconds + late)

    with ThreadPoolExecutor(len(waits)) as clients:
        found = list(clients.map(one, waits, [next(questions) for _ in waits]))
    _refuse_losses(found)
    return found


def _refuse_losses(found: Sequence[Asked]) -> None:
    """End the run where a question was refused or failed.

    Raises:
        SystemExit: One was.
    """
    refused = sum(answer.refused or answer.status != 200 for answer in found)
    if refused:
        raise SystemExit(
            f"{refused} of {len(found)} questions were refused or failed: the machine is too busy "
            "for a figure, or --load is too much for it"
        )


def _p95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(0.95 * len(seconds))]


_PAIRS = ("throughput", "p50", "p95")


def _medians(found: Sequence[Compared], name: str) -> tuple[float, float]:
    """Return the medians of what was predicted and what was measured."""
    return (
        statistics.median(getattr(one, f"predicted_{name}") for one in found),
        statistics.median(getattr(one, name) for one in found),
    )


def _is_met(rows: Sequence[Compared]) -> bool:
    pairs = [_medians(rows, name) for name in ("throughput", "p95")]
    return all(abs(predicted / measured - 1) <= AIM for predicted, measured in pairs)


def _told(name: str, found: Sequence[Compared]) -> str:
    alone = statistics.median(one.alone for one in found)
    full = statistics.median(one.full for one in found)
    parts = [f"{name:<12} alone {alone:.3f} s, full {full:.3f} s"]
    for pair in _PAIRS:
        predicted, measured = _medians(found, pair)
        parts.append(
            f"{pair} predicted {predicted:.3g} measured {measured:.3g} "
            f"({predicted / measured - 1:+.0%})"
        )
    return " | ".join(parts)


if __name__ == "__main__":
    main()
