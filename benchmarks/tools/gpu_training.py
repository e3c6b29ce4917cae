"""Trainings and rows with adapters of their own on one device, plain and recorded, in one run.

`python -m benchmarks.tools.gpu_training` makes a model of random weights in the shape of
Llama-3.1-8B (16 GB; `--models` says where) and prints a table: seconds of a query's training of 8
samples, one after the other with plain passes and then as the trainer does it here, beside trl's
SFTTrainer on the same token ids and steps where trl is installed (extra `bench`), and tokens a
second of rows with and without adapters, beside transformers' `generate`. So speed and memory only,
never quality. `--shape tiny --device cpu` runs the same on a CPU in some seconds.

A device's first use of a shape has a column of its own; the others are medians of what follows it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch

from benchmarks.peers.libraries import peer
from benchmarks.tools.random_models import SHAPES, make_model, query_examples, question
from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.lora import lora_trainer
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.training_batches import EncodedExample, encode_examples
from rttc_graph.integrations.transformers.decoding.row import DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import GenerationRequest, TrainedAdapter
from rttc_graph.settings import TttSettings

if TYPE_CHECKING:  # it imports datasets, which comes with trl
    from benchmarks.peers.trainers import TrlPeer

SETTINGS = TttSettings(stop_loss=0.0)
"""The defaults, of which no epoch is left out."""

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of the same job several times."""

    first: float
    again: float
    peak: float
    """MiB above what was allocated before; 0 without a GPU."""


class Bench:
    """One model on one device.

    Args:
        folder: The model.
        device: Device, as torch names it.
        rounds: Times that a job is repeated after its first.
    """

    def __init__(self, folder: Path, device: str, rounds: int) -> None:
        self._folder, self._device, self._rounds = folder, device, rounds
        self._is_gpu = device.startswith("cuda")

    def trl(self, dtype: torch.dtype) -> TrlPeer:
        """Return trl's trainer on the same model and device."""
        from benchmarks.peers.trainers import TrlPeer  # noqa: PLC0415  # datasets is optional

        return TrlPeer(self._folder, SETTINGS, dtype, self._device)

    @contextmanager
    def opened(self, *, plain: bool) -> Generator[tuple[LocalEngine, LoraTrainer]]:
        """Open engine and trainer: as they are, or with plain passes of one training each."""
        with ExitStack() as stack:
            if plain:
                stack.enter_context(patch.object(lora_trainer, "capture_for", _nothing))
            engine = LocalEngine(self._folder, device=self._device, max_batch=64)
            stack.callback(engine.close)
            trainer = LoraTrainer(
                engine, together=1 if plain else None, max_resident_bytes=16 * 2**30
            )
            asyncio.run(trainer.base_fingerprint())
            yield engine, trainer
        gc.collect()

    def trainings(self, trainer: LoraTrainer, tokens: int, queries: int) -> tuple[Times, float]:
        """Return seconds of so many trainings handed in at once, and their mean last loss."""
        given = [query_examples(tokens, seed) for seed in range(queries)]
        losses: list[float] = []

        async def train() -> None:
            made: list[TrainedAdapter] = await asyncio.gather(
                *(
                    trainer.train(f"k{number}", each, SETTINGS, on_step=_unseen)
                    for number, each in enumerate(given)
                )
            )
            losses[:] = [one.losses[-1] for one in made]

        return self.timed(lambda: asyncio.run(train())), statistics.mean(losses)

    def peer(self, trainer: TrlPeer, encoded: Sequence[EncodedExample]) -> tuple[Times, float]:
        """Return seconds of a query's training by trl, and the part of them that is its loop."""
        loops: list[float] = []

        def train() -> None:
            loops.append(trainer.train(encoded).loop_seconds)

        times = self.timed(train)
        return times, statistics.median(loops[1:])

    def rows(self, engine: LocalEngine, count: int, new: int, adapters: Sequence[str]) -> Times:
        """Return seconds of greedy answers of so many tokens, each row with the next adapter."""
        dice = random.Random(1)
        requests = [
            DecodeRequest(
                generation=GenerationRequest(
                    messages=({"role": "user", "content": question(60, dice)},),
                    max_new_tokens=new,
                    adapter=adapters[row % len(adapters)] if adapters else None,
                )
            )
            for row in range(count)
        ]

        def answer() -> None:
            for row in engine.decode(requests):
                row.result()

        return self.timed(answer)

    def generate(self, engine: LocalEngine, count: int, new: int) -> Times:
        """Return seconds of `generate` of transformers for as many rows."""
        loaded = asyncio.run(engine.model())
        model = cast("Any", loaded.model)
        ids = torch.randint(3, 200, (count, 60), device=model.device)
        mask = torch.ones_like(ids)

        def answer() -> None:
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
            )

        return self.timed(answer)

    def timed(self, job: Callable[[], None]) -> Times:
        """Run a job once, then the rounds."""
        before = 0
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        found: list[float] = []
        for _ in range(1 + self._rounds):
            began = time.perf_counter()
            job()
            if self._is_gpu:
                cast("Any", torch.cuda).synchronize()
            found.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() - before if self._is_gpu else 0
        return Times(first=found[0], again=statistics.median(found[1:]), peak=peak / _MIB)


def report(bench: Bench, *, lengths: Sequence[int], rows: Sequence[int], new: int) -> None:
    """Print the tables."""
    print("| training | pass | s a query | first time | last loss | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    jobs = [(tokens, queries) for tokens in lengths for queries in (1, 8)]
    for plain in (True, False):
        with bench.opened(plain=plain) as (_, trainer):
            for tokens, queries in jobs:
                times, loss = bench.trainings(trainer, tokens, queries)
                print(
                    f"| 8 x {tokens}, {queries} at once | {'plain' if plain else 'as it is'} "
                    f"| {times.again / queries:.3f} | {times.first / queries:.3f} | {loss:.4f} "
                    f"| {times.peak:.0f} |",
                    flush=True,
                )
    _report_peer(bench, lengths)
    print("\n| rows | tokens/s | first time |\n| --- | --- | --- |")
    with bench.opened(plain=False) as (engine, trainer):
        keys = [f"a{number}" for number in range(max(rows))]
        _adapters(trainer, keys, lengths[0])
        for count in rows:
            cases: dict[str, Callable[[], Times]] = {
                "of the base": partial(bench.rows, engine, count, new, ()),
                "each with its own adapter": partial(bench.rows, engine, count, new, keys),
                "by transformers' generate": partial(bench.generate, engine, count, new),
            }
            for name, case in cases.items():
                times = case()
                done = count * new
                print(
                    f"| {count}, {name} | {done / times.again:.0f} | {done / times.first:.0f} |",
                    flush=True,
                )


def _report_peer(bench: Bench, lengths: Sequence[int]) -> None:
    """Print what trl takes for a query's training, with the weights in the type of ours."""
    try:
        peer("datasets")
        peer("trl")
    except ConfigurationError as exc:
        print(f"| by trl | not measured | {exc} |")
        return
    with bench.opened(plain=True) as (engine, _):
        loaded = asyncio.run(engine.model())
        dtype = loaded.model.dtype
        given = {size: encode_examples(loaded, query_examples(size, 0)) for size in lengths}
        del loaded
    trainer = bench.trl(dtype)
    try:
        for tokens, encoded in given.items():
            times, loop = bench.peer(trainer, encoded)
            print(
                f"| 8 x {tokens}, 1 at once | trl, its loop {loop:.3f} of the CPU "
                f"| {times.again:.3f} | {times.first:.3f} | | {times.peak:.0f} |",
                flush=True,
            )
    finally:
        trainer.close()


def _adapters(trainer: LoraTrainer, keys: Sequence[str], tokens: int) -> None:
    """Make adapters resident, by a short training each."""
    examples = query_examples(tokens, 0, count=2)

    async def make() -> None:
        for seed, key in enumerate(keys):
            one = TttSettings(stop_loss=0.0, epochs=1, seed=seed)
            await trainer.train(key, examples, one, on_step=_unseen)

    asyncio.run(make())


def _nothing(device: torch.device) -> None:
    del device


def _unseen(step: object) -> None:
    del step


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all with the arguments of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path, help="folder for the model; a temporary one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.models or Path(temporary)) / f"random-{options.shape}"
        if not (folder / "config.json").is_file():
            make_model(folder, options.shape, device=options.device)
        name = (
            str(cast("Any", torch.cuda).get_device_name())
            if options.device.startswith("cuda")
            else "CPU"
        )
        print(f"{options.shape} on {name}, torch {torch.__version__}\n")
        bench = Bench(folder, options.device, options.rounds)
        report(bench, lengths=options.lengths, rows=options.rows, new=options.new)


if __name__ == "__main__":
    main()
