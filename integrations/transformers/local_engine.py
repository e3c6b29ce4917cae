"""One model, one lane: loads at first use, then generates, scores and trains in turns.

The engine is what policy model, chat model, scorer and trainer share; each of them hands it jobs
that run in the lane's thread with the loaded model as their argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.transformers.decoding.decoder import Decoder
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.free_memory import (
    DeviceSizes,
    device_sizes,
    free_on_all,
    position_bytes,
)
from rttc_graph.integrations.transformers.loading import (
    LoadedModel,
    RowAdapters,
    load_model,
)
from rttc_graph.integrations.transformers.model_lane import ModelLane
from rttc_graph.integrations.transformers.placed.placement import DeviceMap, devices_of
from rttc_graph.integrations.transformers.torch_threads import ThreadsByLoad
from rttc_graph.integrations.transformers.weight_files.resolve import resolve

__all__ = ("LoadedModel", "LocalEngine", "RowAdapters")

T = TypeVar("T")


class LocalEngine:
    """A transformers model in this process, behind a lane of its own.

    Nothing is read before the first job. Every coroutine may be awaited from any event loop.

    Args:
        source: Folder of a model, or a name that `weights.resolve` knows.
        cache_dir: Where models known by name are kept; `None` takes the model hub's own cache.
        device: `auto`, or a torch device.
        dtype: `auto` (float32 on the CPU, bfloat16 elsewhere), a torch type's name, or `int8` or
            `nf4` for weights of eight or four bits, which are made as the model is loaded: by
            bitsandbytes, but for eight bits on a CPU.
        threads: torch threads of the lane; `None` takes as many as others leave cores idle, and
            looks again as jobs begin.
        max_batch: Most rows that are generated together; `None` takes 16, and 64 on a GPU.
        max_batch_tokens: Most positions, padding included, in the cache of one batch; a single row
            is always let in. `None` takes what a quarter of the free memory holds, on a CPU 16 rows
            of 2048 at most: 1.5 GB for a 135 M model in float32.
        prefix_cache_bytes: Memory for keys and values of recent prompts, whose beginnings are then
            not computed again; a token of a 135 M model has 46 kB. 0 keeps nothing.
        thinking: Whether a reasoning model is to think before it answers, which its chat template
            is told as `enable_thinking`; `None` leaves it to the template. It belongs to the
            model's fingerprint, so adapters of one are not used with the other.
        on_sizes: Called in the lane with what fits the device, once the model is loaded.
        device_map: How a model too large for one device is placed on several: `auto`, `balanced`,
            `balanced_low_0` or `sequential`, as accelerate has them, or the device of each part by
            its name. Its layers then compute one device after the other, and nothing is recorded.
        max_memory: Most memory that its parts may take on each device, as `{"0": "40GiB", "cpu":
            "60GiB"}`; what finds no room on a GPU is fetched from the CPU for each pass.

    Raises:
        ConfigurationError: A number is below its least.
    """

    def __init__(  # noqa: PLR0913  # settings of one model, all but the first by name
        self,
        source: str | Path,
        *,
        cache_dir: Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        max_batch: int | None = None,
        max_batch_tokens: int | None = None,
        prefix_cache_bytes: int = 0,
        thinking: bool | None = None,
        on_sizes: Callable[[DeviceSizes], None] | None = None,
        device_map: DeviceMap | None = None,
        max_memory: Mapping[str, int | str] | None = None,
    ) -> None:
        counts = {"threads": threads, "max_batch": max_batch, "max_batch_tokens": max_batch_tokens}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value!r}")
        if prefix_cache_bytes < 0:
            raise ConfigurationError(
                f"prefix_cache_bytes must be at least 0, got {prefix_cache_bytes!r}"
            )
        self._source = source
        self._cache_dir = cache_dir
        self._device = device
        self._dtype = dtype
        self._thinking = thinking
        self._placement = device_map, max_memory
        self._threads = threads
        self._threads_by_load = ThreadsByLoad()
        self._model: LoadedModel | None = None
        self._make_adapters: Callable[[LoadedModel], RowAdapters] | None = None
        self._lane = ModelLane(self.name)
        self._given_sizes = max_batch, max_batch_tokens
        self._sizes: DeviceSizes | None = None
        self._on_sizes = on_sizes
        self._decoder = Decoder(
            self._lane,
            max_rows=max_batch or 1,
            max_tokens=max_batch_tokens or 1,
            max_prefix_bytes=prefix_cache_bytes,
        )

    @property
    def name(self) -> str:
        """The source, as given; of a path its last part."""
        return self._source.name if isinstance(self._source, Path) else self._source

    async def model(self) -> LoadedModel:
        """Return the model, for what computes nothing with it; waits for the lane to load it only.

        Raises:
            PolicyModelError: The model could not be loaded, or the engine is closed.
        """
        loaded = self._model
        return loaded if loaded is not None else await self.in_lane(_itself)

    async def in_lane(self, job: Callable[[LoadedModel], T]) -> T:
        """Run a short job alone in the lane and return its result.

        Raises:
            PolicyModelError: The model could not be loaded, or the engine is closed.
        """
        return await asyncio.wrap_future(self._lane.submit(lambda: job(self._loaded())))

    async def run_steps(self, job: Callable[[LoadedModel], Generator[None, None, T]]) -> T:
        """Run a long job in the lane, step by step, and return what its generator returns.

        Between two steps the lane serves every queued short job and generates. So at each `yield`
        the model must be as others expect it: base weights, evaluation mode, no adapter on.
        Cancelling the awaiting task closes the generator before anything else runs in the lane.

        Raises:
            PolicyModelError: The model could not be loaded, or the engine is closed.
        """
        return await asyncio.wrap_future(self.start_steps(job))

    def start_steps(self, job: Callable[[LoadedModel], Generator[None, None, T]]) -> Future[T]:
        """Queue a long job as `run_steps` does and return its future.

        Raises:
            PolicyModelError: The engine is closed.
        """
        return self._lane.submit_steps(lambda: job(self._loaded()))

    @property
    def sizes(self) -> DeviceSizes | None:
        """Sizes that fit the device; `None` before the model is loaded."""
        return self._sizes

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more jobs; a long step in hand should end soon. From any thread."""
        return self._lane.is_closed

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Future[Decoded]]:
        """Queue rows for generation and return a future for each.

        Rows of different callers share a batch. Cancelling a future drops its row at the next
        token. An adapter that is resident now stays so for its row.

        Raises:
            PolicyModelError: The engine is closed.
        """
        futures = self._decoder.queue(requests, self._loaded)
        for request, future in zip(requests, futures, strict=True):
            self._hold(request.generation.adapter, future)
        return futures

    def attach_adapters(self, make: Callable[[LoadedModel], RowAdapters]) -> None:
        """Give the model adapters: `make` is called once in the lane, now or after loading.

        Raises:
            ConfigurationError: Adapters are attached already.
        """
        if self._make_adapters is not None:
            raise ConfigurationError(
                f"the engine of {self.name!r} has adapters already: share them"
            )
        self._make_adapters = make
        self._lane.submit(self._attach)

    def close(self) -> None:
        """Fail what is queued and let go of the model; the step in hand ends first."""
        self._lane.close()
        self._model = None

    def _hold(self, adapter: str | None, row: Future[Decoded]) -> None:
        """Keep a row's adapter until the row is over, whatever is loaded meanwhile."""
        model = self._model
        if adapter is None or model is None or model.adapters is None:
            return
        release = model.adapters.hold(adapter)
        row.add_done_callback(lambda _: release())

    def _loaded(self) -> LoadedModel:
        """Return the model, in the lane; a failed load is tried again by the next job."""
        self._set_threads()
        if self._model is None:
            folder = resolve(str(self._source), cache_dir=self._cache_dir, kind="chat")
            self._model = load_model(
                folder,
                device=self._device,
                dtype=self._dtype,
                thinking=self._thinking,
                device_map=self._placement[0],
                max_memory=self._placement[1],
            )
            self._fit(self._model)
            self._attach()
        return self._model

    def _fit(self, loaded: LoadedModel) -> None:
        """Let the batch have the size that fits the device, where none was given."""
        item = loaded.model.dtype.itemsize
        sizes = device_sizes(
            loaded.device.type,
            free=free_on_all(devices_of(loaded.model)),
            item=item,
            position=position_bytes(loaded.model.config.get_text_config(), item),
        )
        rows, positions = self._given_sizes
        self._sizes = replace(
            sizes, rows=rows or sizes.rows, positions=positions or sizes.positions
        )
        self._decoder.fit(rows=self._sizes.rows, positions=self._sizes.positions)
        if self._on_sizes is not None:
            self._on_sizes(self._sizes)

    def _set_threads(self) -> None:
        threads = self._threads or self._threads_by_load.now()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _attach(self) -> None:
        model, make = self._model, self._make_adapters
        if model is not None and make is not None and model.adapters is None:
            model.adapters = make(model)


def _itself(loaded: LoadedModel) -> LoadedModel:
    return loaded
