"""Test-time training on k samples: seconds, and how likely the right answer is afterwards."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.peers.trainers import Judge, Ours, PeftTrainer, Run, TransformersPeer, TrlPeer
from benchmarks.tools.benchmark_options import Setup, tell
from benchmarks.tools.matmul import Shapes, needed_flops, peak_flops
from benchmarks.tools.paired_runs import Case, row_of
from benchmarks.tools.solved import Solved, solved_questions
from rttc_graph.integrations.lora.adapter_layout import adapter_layout
from rttc_graph.integrations.lora.training_batches import EncodedExample, deal
from rttc_graph.integrations.transformers.precision import choose_training_dtype
from rttc_graph.settings import TttSettings

SETTINGS = TttSettings(epochs=1, stop_loss=0.0)
"""The defaults up to where they may stop, so that everybody takes as many steps."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one question gave, by us and by a peer."""

    data_set: str
    seconds: tuple[float, float]
    loop_seconds: tuple[float, float]
    nats: tuple[float, float]
    matmul_seconds: float
    """What the multiplications that it needs would take at the peak."""


@dataclass(slots=True)
class _Bench:
    setup: Setup
    dtype: torch.dtype
    """In which everybody multiplies."""
    ours: Ours
    judge: Judge
    shapes: Shapes
    peers: list[PeftTrainer] = field(default_factory=list[PeftTrainer])

    def rows(self, questions: Sequence[Solved]) -> Iterator[dict[str, Any]]:
        """Yield the rows of every peer; likelihoods are compared with the first one only."""
        for number, trainer in enumerate(self.peers):
            asked = questions if number == 0 else questions[: self.setup.pairs]
            found = list(self._measured(trainer, asked))
            yield from timing_rows(found, trainer.name, self.setup.k, number == 0)
            if number == 0:
                yield share_row(found, self.dtype)
                for name in sorted({each.data_set for each in found}):
                    yield likelihood_row([m for m in found if m.data_set == name], trainer.name)

    def _measured(self, trainer: PeftTrainer, asked: Sequence[Solved]) -> Iterator[Measured]:
        end = time.monotonic() + 60 * self.setup.minutes
        self.ours.train(asked[0].examples)  # warm-up
        trainer.train(self.ours.encode(asked[0].examples))
        for number, question in enumerate(asked):
            if time.monotonic() > end and number >= self.setup.pairs:
                tell(f"  {self.setup.minutes:g} minutes are over after {number} questions")
                return
            found = self._one(trainer, question, ours_first=number % 2 == 0)
            tell(
                f"  {number + 1} of {len(asked)}, {question.data_set}: "
                f"{found.seconds[0]:.1f} s and {found.seconds[1]:.1f} s, "
                f"{found.nats[0]:.2f} and {found.nats[1]:.2f} nats"
            )
            yield found

    def _one(self, trainer: PeftTrainer, question: Solved, *, ours_first: bool) -> Measured:
        encoded = self.ours.encode(question.examples)
        (held_out,) = self.ours.encode([question.held_out])
        theirs = None if ours_first else trainer.train(encoded)
        before = self._peak(encoded)
        mine = self.ours.train(question.examples)
        peak = statistics.mean((before, self._peak(encoded)))
        theirs = theirs or trainer.train(encoded)
        flops = sum(
            needed_flops(self.shapes, step, rank=SETTINGS.rank) for step in deal(encoded, SETTINGS)
        )
        return Measured(
            data_set=question.data_set,
            seconds=(mine.seconds, theirs.seconds),
            loop_seconds=(mine.seconds, theirs.loop_seconds),
            nats=tuple(self._nats(run, held_out) for run in (mine, theirs)),  # type: ignore[arg-type]
            matmul_seconds=flops / peak,
        )

    def _nats(self, run: Run, held_out: EncodedExample) -> float:
        return self.judge.nats(run.adapter, held_out)

    def _peak(self, encoded: Sequence[EncodedExample]) -> float:
        largest = max(deal(encoded, SETTINGS), key=len)
        return peak_flops(self.shapes, sum(len(each.ids) for each in largest), self.dtype)


@contextmanager
def cases(setup: Setup) -> Generator[Iterator[dict[str, Any]]]:
    """Yield rows: seconds against both trainers, share of multiplication, likelihood."""
    torch.set_num_threads(1)
    questions = solved_questions(setup)
    dtype = choose_training_dtype(setup.training_dtype, torch.float32, torch.device("cpu"))
    ours = Ours(setup.model, SETTINGS, setup.training_dtype)
    layout = asyncio.run(ours.engine.in_lane(lambda loaded: adapter_layout(loaded.model)))
    bench = _Bench(setup, dtype, ours, Judge(setup.model, SETTINGS), Shapes.of(setup.model, layout))
    bench.peers = [each(setup.model, SETTINGS, dtype) for each in (TrlPeer, TransformersPeer)]
    try:
        yield bench.rows(questions)
    finally:
        ours.close()
        for trainer in bench.peers:
            trainer.close()


def timing_rows(
    found: Sequence[Measured], peer_name: str, k: int, is_main: bool
) -> Iterator[dict[str, Any]]:
    """Yield seconds of whole trainings, and against the peer's loop alone, without its set-up."""
    for name, pairs in (
        ("training", [each.seconds for each in found]),
        ("training, peer's loop alone", [each.loop_seconds for each in found]),
    ):
        case = _case(
            f"{name}, k = {k}, n = {len(found)}",
            peer_name,
            "cpu s",
            least_ratio=5 if is_main and name == "training" else None,
        )
        yield row_of(case, pairs)


def share_row(found: Sequence[Measured], dtype: torch.dtype) -> dict[str, Any]:
    """Return our seconds beside those of the multiplications; the ratio is the share."""
    case = _case(
        f"share of multiplication, n = {len(found)}",
        f"torch.mm at its peak in {str(dtype).removeprefix('torch.')}: FLOPs needed / peak",
        "cpu s",
        least_ratio=0.5,
    )
    return row_of(case, [(each.seconds[0], each.matmul_seconds) for each in found])


def likelihood_row(found: Sequence[Measured], peer_name: str) -> dict[str, Any]:
    """Return the mean nats of the right answers; the spread is of the ratio, 95 %, bootstrapped.

    The target is met unless the peer is better by more than chance explains.
    """
    pairs = [each.nats for each in found]
    mine, theirs = (statistics.mean(side) for side in zip(*pairs, strict=True))
    gaps = [ours - peer for ours, peer in pairs]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return {
        "case": f"held-out answer, {found[0].data_set}, n = {len(found)}",
        "ours": mine,
        "peer": theirs,
        "peer_name": peer_name,
        "unit": "nats",
        "ratio": theirs / mine,
        "spread": bootstrapped(pairs),
        "target": "no worse (95 %)",
        "met": mine - theirs <= 1.96 * error,
    }


def bootstrapped(pairs: Sequence[tuple[float, float]], *, draws: int = 2_000) -> list[float]:
    """Return the 2.5th and 97.5th percentile of the ratio of the means, peer / ours."""
    dice = random.Random(0)
    ratios: list[float] = []
    for _ in range(draws):
        drawn = dice.choices(pairs, k=len(pairs))
        ratios.append(sum(theirs for _, theirs in drawn) / sum(mine for mine, _ in drawn))
    ratios.sort()
    return [ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]]


def _case(name: str, peer_name: str, unit: str, *, least_ratio: float | None) -> Case:
    """Return the description of what was measured already."""

    def measured() -> float:
        raise AssertionError("this was measured question by question")

    return Case(
        name=name,
        ours=measured,
        peer=measured,
        peer_name=peer_name,
        unit=unit,
        least_ratio=least_ratio,
    )
