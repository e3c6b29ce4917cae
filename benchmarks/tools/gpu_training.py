"""Trainings and rows with adapters of their own on one device, plain and recorded, in one run.

`python -m benchmarks.tools.gpu_training` makes a model of random weights in the shape of
Llama-3.1-8B (16 GB; `--models` says where), or takes the one in `--model`, and prints tables:
seconds of a query's training of 8 samples, as the trainer does it here and then one after the other
with plain passes, beside trl's SFTTrainer on the same token ids and steps where trl is installed
(extra `bench`), and tokens a second of rows with and without adapters, beside transformers'
`generate`. So speed and memory only, never quality. `--shape tiny --device cpu` runs the same on a
CPU in some seconds.

A device's first use of a shape has a column of its own; the others are medians of what follows it.
A line that fails says so, and the next one is measured; after `--seconds` none is begun any more.
`--out` keeps all lines as JSON, renewed at each.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
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
from rttc_graph.integrations.transformers.torch_errors import let_go
from rttc_graph.protocols import GenerationRequest, TrainedAdapter
from rttc_graph.settings import TttSettings

if TYPE_CHECKING:  # it imports datasets, which comes with trl
    from benchmarks.peers.trainers import TrlPeer

SETTINGS = TttSettings(stop_loss=0.0)
"""The defaults, of which no epoch is left out."""

_MIB = 2**20

_ENOUGH_SECONDS = 20.0
"""Time of a line after which its job is not repeated any more."""

_SAMPLE_TOKENS = 300
"""Tokens of the samples that tell how many letters a token of the model has."""

Figures = Mapping[str, float]
"""What was measured, by column."""

OTHERS = {"s": ".3f", "first time": ".3f"}
TRAININGS = {"s a query": ".3f", "first time": ".3f", "last loss": ".4f", "peak MiB": ".0f"}
PEERS = {"s a query": ".3f", "first time": ".3f", "loop, s of the CPU": ".3f", "peak MiB": ".0f"}
ROWS = {"tokens/s": ".0f", "first time": ".0f"}
"""Columns of the tables, and how their figures are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of the same job several times."""

    first: float
    again: float
    peak: float
    """MiB above what was allocated before; 0 without a GPU."""


class Tables:
    """Lines of figures, each measured by itself: printed at once and kept as JSON.

    Args:
        told: What was measured, on what.
        out: File for the JSON; `None` writes none.
        seconds: Seconds after which no line is begun any more.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        told: Mapping[str, object],
        *,
        out: Path | None = None,
        seconds: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept: dict[str, Any] = {**told, "lines": [], "warnings": []}
        self._out = out
        self._lock = threading.Lock()
        """Around `out`: warnings come from the model's thread."""
        self._clock = clock
        self._ends = clock() + seconds
        self._columns: Mapping[str, str] = {}
        self._title = ""

    @property
    def is_over(self) -> bool:
        """Whether no line is begun any more."""
        return self._clock() >= self._ends

    def begin(self, title: str, columns: Mapping[str, str]) -> None:
        """Begin a table."""
        self._title, self._columns = title, columns
        heads = [title, *columns]
        print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)

    def line(self, name: str, measure: Callable[[], Figures]) -> None:
        """Measure and tell a line; or why there is none."""
        if self.is_over:
            self._tell(name, {"left out": "there was no time for it"})
            return
        with self.trying(name):
            found = measure()
            cells = [f"{found[key]:{form}}" for key, form in self._columns.items() if key in found]
            self._tell(name, found, cells)

    @contextmanager
    def trying(self, name: str) -> Generator[None]:
        """Tell what fails, and let what comes behind go on."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001  # whatever it is, the next line is another one
            let_go(exc)
            self._tell(name, {"failed": f"{type(exc).__name__}: {exc}"})

    def warn(self, message: str) -> None:
        """Tell a warning."""
        self._kept["warnings"].append(message)
        print(f"warning: {message}", flush=True)
        self._keep()

    def _tell(self, name: str, found: Mapping[str, float | str], cells: Sequence[str] = ()) -> None:
        cells = cells or [f"{what}: {' '.join(str(why).split())}" for what, why in found.items()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        self._kept["lines"].append({"table": self._title, "line": name, **found})
        self._keep()

    def _keep(self) -> None:
        if self._out is not None:
            with self._lock:
                self._out.write_text(json.dumps(self._kept, indent=1), encoding="utf-8")


class _Warnings(logging.Handler):
    """Tells warnings of the library among the lines, as that passes are not recorded any more."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(logging.WARNING)
        self._tables = tables

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a warning."""
        self._tables.warn(record.getMessage())


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
        self._letters = 1.0
        """Letters of a token; a model of random weights has one."""

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
            yield (
                engine,
                LoraTrainer(
                    engine,
                    together=1 if plain else None,
                    max_resident_bytes=16 * 2**30,
                    max_training_bytes=16 * 2**30,
                ),
            )

    def load(self, engine: LocalEngine, trainer: LoraTrainer) -> Figures:
        """Load the model, and return the seconds that it took."""
        began = time.perf_counter()
        asyncio.run(trainer.base_fingerprint())
        seconds = time.perf_counter() - began
        given = query_examples(_SAMPLE_TOKENS, 0)
        encoded = encode_examples(asyncio.run(engine.model()), given)
        self._letters = _SAMPLE_TOKENS / statistics.mean(len(each.ids) for each in encoded)
        return {"s": seconds, "first time": seconds}

    def encoded(self, engine: LocalEngine, tokens: int) -> list[EncodedExample]:
        """Return a query's samples of so many tokens as ids."""
        loaded = asyncio.run(engine.model())
        return encode_examples(loaded, query_examples(self._asked(tokens), 0))

    def trainings(self, trainer: LoraTrainer, tokens: int, queries: int) -> Figures:
        """Measure so many trainings handed in at once; the loss is the mean of their last ones."""
        given = [query_examples(self._asked(tokens), seed) for seed in range(queries)]
        losses: list[float] = []

        async def train() -> None:
            made: list[TrainedAdapter] = await asyncio.gather(
                *(
                    trainer.train(f"k{number}", each, SETTINGS, on_step=_unseen)
                    for number, each in enumerate(given)
                )
            )
            losses[:] = [one.losses[-1] for one in made]

        times = self.timed(lambda: asyncio.run(train()))
        return _training_figures(times, queries) | {"last loss": statistics.mean(losses)}

    def peer(self, trainer: TrlPeer, encoded: Sequence[EncodedExample]) -> Figures:
        """Measure a query's training by trl, and the part of it that is its loop."""
        loops: list[float] = []

        def train() -> None:
            loops.append(trainer.train(encoded).loop_seconds)

        times = self.timed(train)
        return _training_figures(times, 1) | {"loop, s of the CPU": statistics.median(loops[1:])}

    def stored(self, trainer: LoraTrainer, tokens: int) -> Figures:
        """Measure how long a stored adapter takes to be resident."""
        made = asyncio.run(
            trainer.train("stored", self._samples(tokens), SETTINGS, on_step=_unseen)
        )
        keys = (f"again {number}" for number in range(1 + self._rounds))
        times = self.timed(lambda: asyncio.run(trainer.load(replace(made, key=next(keys)))))
        return {"s": times.again, "first time": times.first}

    def rows(self, engine: LocalEngine, count: int, new: int, adapters: Sequence[str]) -> Figures:
        """Measure greedy answers of so many tokens, each row with the next adapter."""
        dice = random.Random(1)
        requests = [
            DecodeRequest(
                generation=GenerationRequest(
                    messages=({"role": "user", "content": question(self._asked(60), dice)},),
                    max_new_tokens=new,
                    adapter=adapters[row % len(adapters)] if adapters else None,
                )
            )
            for row in range(count)
        ]
        tokens = [0]

        def answer() -> None:
            tokens[0] = sum(len(row.result().tokens) for row in engine.decode(requests))

        times = self.timed(answer)
        return _row_figures(times, tokens[0])

    def generate(self, engine: LocalEngine, count: int, new: int) -> Figures:
        """Measure `generate` of transformers for as many rows."""
        model = cast("Any", asyncio.run(engine.model()).model)
        ids = torch.randint(3, 200, (count, 60)).to(model.device)
        mask = torch.ones_like(ids)

        def answer() -> None:
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
            )

        return _row_figures(self.timed(answer), count * new)

    def adapters(self, trainer: LoraTrainer, keys: Sequence[str], tokens: int) -> None:
        """Make adapters resident, by a short training each."""
        examples = self._samples(tokens, count=2)

        async def make() -> None:
            for seed, key in enumerate(keys):
                one = TttSettings(stop_loss=0.0, epochs=1, seed=seed)
                await trainer.train(key, examples, one, on_step=_unseen)

        asyncio.run(make())

    def timed(self, job: Callable[[], None]) -> Times:
        """Run a job once, then the rounds; at least one of them."""
        before = 0
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        found: list[float] = []
        for _ in range(1 + self._rounds):
            if len(found) > 1 and sum(found) > _ENOUGH_SECONDS:
                break
            began = time.perf_counter()
            job()
            if self._is_gpu:
                cast("Any", torch.cuda).synchronize()
            found.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() - before if self._is_gpu else 0
        return Times(first=found[0], again=statistics.median(found[1:]), peak=peak / _MIB)

    def _samples(self, tokens: int, *, count: int = 8) -> Any:
        return query_examples(self._asked(tokens), 0, count=count)

    def _asked(self, tokens: int) -> int:
        """Return of how many letters a text has so many tokens."""
        return round(tokens * self._letters)


def report(
    bench: Bench, tables: Tables, *, lengths: Sequence[int], rows: Sequence[int], new: int
) -> None:
    """Print the tables; each part lets go of its model before the next one begins."""
    parts = [
        partial(_report_ours, lengths=lengths, rows=rows, new=new),
        partial(_report_plain, lengths=lengths),
        partial(_report_peer, lengths=lengths),
    ]
    for part in parts:
        if tables.is_over:
            tables.warn("there was no time for the rest")
            return
        with tables.trying("this part"):
            part(bench, tables)
        _free_memory()


def _report_ours(
    bench: Bench, tables: Tables, *, lengths: Sequence[int], rows: Sequence[int], new: int
) -> None:
    with bench.opened(plain=False) as (engine, trainer):
        tables.begin("once", OTHERS)
        tables.line("load of the model", partial(bench.load, engine, trainer))
        tables.line("load of a stored adapter", partial(bench.stored, trainer, lengths[0]))
        _report_trainings(bench, tables, trainer, lengths, how="as it is")
        tables.begin("rows", ROWS)
        keys = [f"a{number}" for number in range(max(rows))]
        with tables.trying("adapters of their own"):
            bench.adapters(trainer, keys, lengths[0])
        for count in rows:
            cases: dict[str, Callable[[], Figures]] = {
                "of the base": partial(bench.rows, engine, count, new, ()),
                "each with its own adapter": partial(bench.rows, engine, count, new, keys),
                "by transformers' generate": partial(bench.generate, engine, count, new),
            }
            for name, case in cases.items():
                tables.line(f"{count}, {name}", case)


def _report_plain(bench: Bench, tables: Tables, *, lengths: Sequence[int]) -> None:
    with bench.opened(plain=True) as (_, trainer):
        _report_trainings(bench, tables, trainer, lengths, how="plain")


def _report_trainings(
    bench: Bench, tables: Tables, trainer: LoraTrainer, lengths: Sequence[int], *, how: str
) -> None:
    tables.begin("training", TRAININGS)
    for tokens in lengths:
        for queries in (1, 8):
            tables.line(
                f"8 x {tokens}, {queries} at once, {how}",
                partial(bench.trainings, trainer, tokens, queries),
            )


def _report_peer(bench: Bench, tables: Tables, *, lengths: Sequence[int]) -> None:
    """Measure trl on the token ids of ours, with the weights in their type."""
    try:
        peer("datasets")
        peer("trl")
    except ConfigurationError as exc:
        tables.warn(f"trl is not measured: {exc}")
        return
    dtype, given = _ids(bench, lengths)
    _free_memory()
    trainer = bench.trl(dtype)
    tables.begin("training", PEERS)
    try:
        for tokens, encoded in given.items():
            tables.line(f"8 x {tokens}, 1 at once, trl", partial(bench.peer, trainer, encoded))
    finally:
        trainer.close()


def _ids(
    bench: Bench, lengths: Sequence[int]
) -> tuple[torch.dtype, dict[int, list[EncodedExample]]]:
    with bench.opened(plain=True) as (engine, _):
        dtype = asyncio.run(engine.model()).model.dtype
        return dtype, {tokens: bench.encoded(engine, tokens) for tokens in lengths}


def _training_figures(times: Times, queries: int) -> dict[str, float]:
    return {
        "s a query": times.again / queries,
        "first time": times.first / queries,
        "peak MiB": times.peak,
    }


def _row_figures(times: Times, tokens: int) -> Figures:
    return {"tokens/s": tokens / times.again, "first time": tokens / times.first}


def _free_memory() -> None:
    """Free what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing(device: torch.device) -> None:
    del device


def _unseen(step: object) -> None:
    del step


def _versions(names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all with the arguments of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="folder of a model, instead of random weights")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b", help="of random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", type=Path, help="where random weights go; a temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--out", type=Path, help="file for all lines as JSON")
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="after these no line is begun any more"
    )
    options = parser.parse_args(arguments)
    is_gpu = options.device.startswith("cuda")
    card = str(cast("Any", torch.cuda).get_device_name()) if is_gpu else "CPU"
    name = options.model.name if options.model else options.shape
    told = {"model": name, "device": card, **_versions(["torch", "transformers", "peft", "trl"])}
    print(", ".join(f"{key} {value}" for key, value in told.items()))
    tables = Tables(told, out=options.out, seconds=options.seconds)
    handler = _Warnings(tables)
    logging.getLogger("rttc_graph").addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.model
            if folder is None:
                folder = (options.models or Path(temporary)) / f"random-{options.shape}"
                if not (folder / "config.json").is_file():
                    make_model(folder, options.shape, device=options.device)
                    _free_memory()
            bench = Bench(folder, options.device, options.rounds)
            report(bench, tables, lengths=options.lengths, rows=options.rows, new=options.new)
    finally:
        logging.getLogger("rttc_graph").removeHandler(handler)


if __name__ == "__main__":
    main()
