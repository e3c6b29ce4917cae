"""Test-time training on the model of a `LocalEngine`, in that engine's lane."""

from __future__ import annotations

import asyncio
import statistics
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from rttc_graph.errors import AdaptationError, PolicyModelError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, from_bytes, to_bytes
from rttc_graph.integrations.lora.free_memory import free_bytes
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.lora.training_batches import StepLimits, encode_examples
from rttc_graph.integrations.lora.training_loop import (
    Trained,
    Watch,
    epoch_of,
    fresh_adapter,
    learning_rate_of,
    training_steps,
)
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.precision import choose_training_dtype
from rttc_graph.integrations.transformers.scoring import ScoringRequest, log_probabilities
from rttc_graph.protocols import TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.settings import TrainingDtype, TttSettings

__all__ = ("LoraTrainer",)

FIRST_USE_SECONDS = 2.0
"""How long an adapter that was just trained or loaded waits for the request it was meant for."""

ROOM_SECONDS = 30.0
"""How long a training or a load waits for room while all resident adapters are in use."""

_PASS_BYTES = 2**30
"""Of a pass on the CPU, where a larger one is no faster."""

_LOOK_AGAIN_SECONDS = 0.02

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""How torch's allocators say it in a plain `RuntimeError`."""


class LoraTrainer:
    """Trains adapters and makes them resident, where the engine's generation finds them.

    All linear layers but the head get a term. The base model's weights are shared, never changed,
    so its output is the same bits before, during and after a training.

    Args:
        engine: Gets its adapters from this trainer; one engine has one trainer.
        max_resident_bytes: Memory for resident adapters; one of rank 8 for SmolLM2-135M has 10 MB.
        max_pass_bytes: Memory that one forward and backward pass may take, by estimate; larger
            steps are cut into several passes, between which the lane serves others. `None` takes
            1 GiB, and on a GPU half of what is free there.
        training_dtype: Type in which trainings multiply by the base's weights; everything else is
            float32 as before. `auto` takes bfloat16 on a CPU with units for it, if copies of the
            weights, half the size of the model, fit in half of the memory that is free; they stay
            from the first training on.
        recompute: Whether the layers of a sample that alone is beyond `max_pass_bytes` are
            computed twice (gradient checkpointing): a third more time, for memory of one layer.
            `None` does so where the sample would take more than half of the memory that is free.
        clock: Seconds, monotonic; deadlines are its readings.

    Raises:
        ConfigurationError: The engine has adapters already.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        max_resident_bytes: int = 512 * 2**20,
        max_pass_bytes: int | None = None,
        training_dtype: TrainingDtype = "auto",
        recompute: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._max_resident_bytes = max_resident_bytes
        self._max_pass_bytes = max_pass_bytes
        self._training_dtype: TrainingDtype = training_dtype
        self._recompute = recompute
        self._clock = clock
        self._resident: ResidentAdapters | None = None
        engine.attach_adapters(self._make_resident)

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model's weights and configuration."""
        return await self._engine.run(lambda loaded: loaded.fingerprint)

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        """Train an adapter, make it resident under `key` and return it.

        The same examples and settings give the same bytes on the same machine with as many torch
        threads. `on_step` is called from the lane's thread. `seconds` counts waiting for the lane.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: No examples, an answer longer than the context, a loss that is not
                finite, out of memory, or no room among the resident adapters.
        """
        began = self._clock()
        watch = Watch(on_step=on_step, clock=self._clock, deadline=deadline)

        def steps(loaded: LoadedModel) -> Generator[None, None, tuple[TrainedAdapter, Adapter]]:
            return self._train(loaded, key, tuple(examples), settings, watch, began)

        trained, tensors = await self._engine.run_steps(steps)
        await self._keep(key, tensors)
        return trained

    async def is_resident(self, key: str) -> bool:
        """Tell whether `generate` can use the adapter `key` right away."""
        return self._resident is not None and self._resident.has(key)

    async def load(self, adapter: TrainedAdapter) -> None:
        """Make a stored adapter resident.

        Raises:
            AdaptationError: It was made for another base, its bytes are damaged, or there is no
                room for it.
        """
        await self._keep(
            adapter.key, await self._engine.run(lambda base: self._read(base, adapter))
        )

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return the mean nats per answer token of examples with a stored adapter.

        Raises:
            AdaptationError: As `load`; or an example is longer than the context, or the adapter
                was dropped for another one meanwhile.
        """
        if not await self.is_resident(adapter.key):
            await self.load(adapter)
        requests = [
            ScoringRequest(messages=each.messages, answer=each.answer, adapter=adapter.key)
            for each in examples
        ]
        try:
            return -statistics.mean(await log_probabilities(self._engine, requests))
        except PolicyModelError as exc:
            raise AdaptationError(
                f"could not try adapter {adapter.key!r}: {exc}", retryable=exc.retryable
            ) from exc

    async def _keep(self, key: str, adapter: Adapter) -> None:
        """Make an adapter resident; while those in use take all the room, wait for theirs.

        Raises:
            AdaptationError: There is no room for it, or none came free in time.
        """
        waited = 0.0
        while True:
            try:
                return self._adapters().put(key, adapter)
            except AdaptationError as exc:
                if not exc.retryable or waited >= ROOM_SECONDS:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            waited += _LOOK_AGAIN_SECONDS

    def _make_resident(self, loaded: LoadedModel) -> ResidentAdapters:
        self._resident = ResidentAdapters(
            loaded.model,
            max_bytes=self._max_resident_bytes,
            first_use_seconds=FIRST_USE_SECONDS,
            clock=self._clock,
        )
        return self._resident

    def _adapters(self) -> ResidentAdapters:
        if self._resident is None:
            raise AdaptationError("the engine has not loaded its adapters: make a new engine")
        return self._resident

    def _train(
        self,
        loaded: LoadedModel,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        watch: Watch,
        began: float,
    ) -> Generator[None, None, tuple[TrainedAdapter, Adapter]]:
        resident = self._adapters()
        with _translated(f"train adapter {key!r} on {len(examples)} samples"):
            encoded = encode_examples(loaded, examples)
            model = resident.adapted
            self._choose_products(model)
            epoch = epoch_of(model, encoded, self._limits(loaded, model), settings)
            adapter = fresh_adapter(model.layout, settings, device=model.device)
            trained = yield from training_steps(model, adapter, epoch, settings, watch)
            weights = to_bytes(trained.adapter, model.layout)
        made = TrainedAdapter(
            key=key,
            weights=weights,
            base_fingerprint=loaded.fingerprint,
            trained_tokens=trained.trained_tokens,
            steps=len(trained.losses),
            losses=trained.losses,
            seconds=self._clock() - began,
            provenance=_provenance(model, settings, trained),
        )
        return made, trained.adapter

    def _choose_products(self, model: AdaptedModel) -> None:
        dtype = choose_training_dtype(self._training_dtype, model.dtype, model.device)
        if dtype == model.products:
            return
        fits = 2 * model.copied_bytes(dtype) <= free_bytes(model.device)
        if fits or self._training_dtype != "auto":
            model.multiply_in(dtype)

    def _limits(self, loaded: LoadedModel, model: AdaptedModel) -> StepLimits:
        free = free_bytes(model.device)
        default = free / 2 if model.device.type == "cuda" else _PASS_BYTES
        return StepLimits.of(
            model.layout,
            vocabulary=loaded.vocabulary,
            max_bytes=default if self._max_pass_bytes is None else self._max_pass_bytes,
            free_bytes=free,
            recompute=self._recompute,
        )

    def _read(self, loaded: LoadedModel, adapter: TrainedAdapter) -> Adapter:
        """Return a stored adapter's tensors, in the lane."""
        if adapter.base_fingerprint != loaded.fingerprint:
            raise AdaptationError(
                f"adapter {adapter.key!r} was made for the base {adapter.base_fingerprint!r}, "
                f"this one is {loaded.fingerprint!r}: train it again"
            )
        with _translated(f"load adapter {adapter.key!r}"):
            model = self._adapters().adapted
            config = adapter.provenance.get(PEFT_CONFIG)
            return from_bytes(adapter.weights, config, model.layout, device=model.device)


def _provenance(model: AdaptedModel, settings: TttSettings, trained: Trained) -> dict[str, Any]:
    adapter, layout = trained.adapter, model.layout
    return {
        "base_name": layout.base_name,
        "settings": asdict(settings),
        "learning_rate": learning_rate_of(model, settings),
        "seed": settings.seed,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "products": str(model.products).removeprefix("torch."),
        PEFT_CONFIG: layout.peft_config(
            rank=adapter.rank, alpha=adapter.alpha, first=adapter.first
        ),
    }


@contextmanager
def _translated(action: str) -> Generator[None]:
    """Re-raise what torch raises as AdaptationError, and let go of the tensors it holds on to."""
    try:
        yield
    except (MemoryError, RuntimeError, IndexError) as exc:
        # The frames of a failed pass hold its activations for as long as somebody keeps the error.
        traceback.clear_frames(exc.__traceback__)
        if _is_out_of_memory(exc):
            raise AdaptationError(
                f"out of memory, could not {action}: use fewer or shorter samples, a lower rank "
                "or a lower max_pass_bytes"
            ) from exc
        raise AdaptationError(f"could not {action}: {exc}") from exc


def _is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(exc).lower() for words in _OUT_OF_MEMORY)
