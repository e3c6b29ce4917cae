"""Test-time training on the model of a `LocalEngine`, in that engine's lane."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from rttc_graph.errors import (
    AdaptationError,
    BudgetExceeded,
    ConfigurationError,
    PolicyModelError,
    RttcError,
)
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, from_bytes, to_bytes
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.lora.together.pass_runner import PassRunner
from rttc_graph.integrations.lora.together.training_crowd import TrainingCrowd
from rttc_graph.integrations.lora.together.training_plans import (
    TrainingPlan,
    fit_together,
    most_together,
)
from rttc_graph.integrations.lora.training_batches import EncodedExample, StepLimits, pack
from rttc_graph.integrations.lora.training_loop import (
    Pass,
    Trained,
    begin_with,
    fresh_adapter,
    learning_rate_for,
    training_passes,
    training_steps,
)
from rttc_graph.integrations.lora.training_planner import TrainingPlanner
from rttc_graph.integrations.lora.training_watch import Pace, TrainingWatch
from rttc_graph.integrations.transformers.free_memory import DeviceSizes
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.recorded.capture import capture_for
from rttc_graph.integrations.transformers.scoring import ScoringRequest, log_probabilities
from rttc_graph.integrations.transformers.torch_errors import is_out_of_memory, let_go
from rttc_graph.protocols import TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.settings import TrainingDtype, TttSettings

__all__ = ("LoraTrainer",)

FIRST_USE_SECONDS = 2.0
"""Time that a newly trained or loaded adapter is kept for the request it was made for."""

ROOM_SECONDS = 30.0
"""Longest time that a training or a load waits while all resident adapters are in use."""

_PROBE_TOKENS = 128
"""Length of a first pass that measures the pace, where the full pass may take too long.
"""

_LARGE = 8
"""Times the probe from which on a first pass is large."""

_LOOK_AGAIN_SECONDS = 0.02


class LoraTrainer:
    """Trains adapters and makes them resident, where the engine's generation finds them.

    All linear layers but the head get a term. The base model's weights are shared, never changed,
    so a pass over the same rows gives the same bits before, during and after a training.

    Args:
        engine: Gets its adapters from this trainer; one engine has one trainer.
        max_resident_bytes: Memory for resident adapters; one of rank 8 for SmolLM2-135M has 10 MB.
            `None` takes an eighth of what is free, and 512 MiB at most where that is not a GPU.
        max_pass_bytes: Memory that one forward and backward pass may take, by estimate; larger
            steps are cut into several passes, between which the lane serves others. `None` takes
            1 GiB, and on a GPU half of what is free there.
        max_training_bytes: Memory of the trainings in hand: weights, gradients and optimiser of
            the one that runs, for trainings run one after the other, and the adapters that were
            trained and wait for room. A training that needs more is refused. `None` takes 2 GiB,
            and on a GPU an eighth of what is free if that is more.
        training_dtype: Type in which trainings multiply by the base's weights; everything else is
            float32 as before. `auto` takes bfloat16 on a CPU with units for it, if copies of the
            weights, half the size of the model, fit in half of the memory that is free; they stay
            from the first training on.
        recompute: Whether the layers of a sample that alone is beyond `max_pass_bytes` are
            computed twice (gradient checkpointing): a third more time, for memory of one layer.
            `None` does so where the sample would take more than half of the memory that is free.
        together: Most trainings that go on in one pass, where memory and their lengths allow;
            `None` takes eight on a GPU and one elsewhere, which train one after the other, as all
            do where the model lies on several devices.
        clock: Seconds, monotonic; deadlines are its readings.

    Raises:
        ConfigurationError: The engine has adapters already, or `max_training_bytes` or `together`
            is below 1.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        max_resident_bytes: int | None = None,
        max_pass_bytes: int | None = None,
        max_training_bytes: int | None = None,
        training_dtype: TrainingDtype = "auto",
        recompute: bool | None = None,
        together: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_resident_bytes is not None and max_resident_bytes <= 0:
            raise ConfigurationError(
                f"max_resident_bytes must be above 0, got {max_resident_bytes!r}"
            )
        if max_training_bytes is not None and max_training_bytes <= 0:
            raise ConfigurationError(
                f"max_training_bytes must be above 0, got {max_training_bytes!r}"
            )
        if together is not None and together < 1:
            raise ConfigurationError(f"together must be at least 1, got {together!r}")
        self._engine = engine
        self._max_training_bytes = max_training_bytes
        self._pace = Pace()
        self._plans: list[TrainingPlan] = []
        """Trainings in hand, in the order in which they run."""
        self._lock = threading.Lock()
        """Around `_plans`, which callers in several event loops share."""
        self._max_resident_bytes = max_resident_bytes
        self._together = together
        self._planner = TrainingPlanner(
            training_bytes=self._training_bytes,
            max_pass_bytes=max_pass_bytes,
            training_dtype=training_dtype,
            recompute=recompute,
        )
        self._crowd = TrainingCrowd(engine, runner=self._runner, may_join=self._may_join)
        self._clock = clock
        self._resident: ResidentAdapters | None = None
        engine.attach_adapters(self._make_resident)

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model's weights and configuration."""
        return await self._engine.in_lane(lambda loaded: loaded.fingerprint)

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

        A training alone gives the same bytes for the same examples and settings on the same CPU
        with as many torch threads. In company its losses are the same to 1e-5 in float32. On a GPU
        two trainings of the same may differ: their losses by 0.011 in bfloat16 for 8 samples of 300
        tokens and 8 billion weights, not at all for samples of 60.

        `on_step` is called from the lane's thread. `seconds` counts waiting for the lane.
        Trainings go on as they come: on a GPU several in one pass, each as it would alone up to
        rounding; elsewhere one after the other.

        Raises:
            BudgetExceeded: The deadline passed before the training ended, or would: at the pace of
                the passes so far there is no time for it, behind those that came before.
            AdaptationError: No examples, an answer longer than the context, a loss that is not
                finite, more memory than `max_training_bytes`, out of memory, or no room among the
                resident adapters.
        """
        return await self._trained(key, examples, settings, None, on_step, deadline)

    async def train_on(
        self,
        start: TrainedAdapter,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        """Train an adapter from the weights of another one; all else is as in `train`.

        Raises:
            BudgetExceeded: As `train`.
            AdaptationError: As `train`; or `start` was made for another base, is damaged, has a
                higher rank, or adapts more layers than `settings` say.
        """
        return await self._trained(key, examples, settings, start, on_step, deadline)

    async def _trained(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        start: TrainedAdapter | None,
        on_step: Callable[[TrainStep], None],
        deadline: float | None,
    ) -> TrainedAdapter:
        began = self._clock()
        over = threading.Event()
        watch = TrainingWatch(
            on_step=on_step,
            clock=self._clock,
            deadline=deadline,
            pace=self._pace,
            is_stopped=lambda: over.is_set() or self._engine.is_closed,
        )
        given = tuple(examples)

        def planned(loaded: LoadedModel) -> TrainingPlan:
            with _translated(f"train adapter {key!r} on {len(given)} samples"):
                return self._planner.plan(loaded, self._adapters().adapted, key, given, settings)

        plan = await self._engine.in_lane(planned)

        def passes(loaded: LoadedModel) -> Generator[Pass, float, tuple[TrainedAdapter, Adapter]]:
            return self._train(loaded, plan, watch, began, start)

        with self._in_hand(plan, watch):
            try:
                trained, tensors = await self._crowd.train(plan, passes)
            finally:
                over.set()  # a pass that is cancelled in the middle ends at its next layer
            plan.is_trained = True
            await self._keep(key, tensors)
        return trained

    def resident_figures(self) -> dict[str, float]:
        """Return how many adapters are resident (`adapters`) and their `bytes`; never waits."""
        resident = self._resident
        if resident is None:
            return {"adapters": 0, "bytes": 0}
        return {"adapters": resident.count, "bytes": resident.bytes}

    async def is_resident(self, key: str) -> bool:
        """Tell whether `generate` can use the adapter `key` right away."""
        return self._resident is not None and self._resident.has(key)

    async def load(self, adapter: TrainedAdapter) -> None:
        """Make a stored adapter resident, if it is not.

        Raises:
            AdaptationError: It was made for another base, its bytes are damaged, or there is no
                room for it.
        """
        if await self.is_resident(adapter.key):
            return
        await self._keep(
            adapter.key, await self._engine.in_lane(lambda base: self._read(base, adapter))
        )

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return the mean nats per answer token of examples with a stored adapter.

        Raises:
            AdaptationError: As `load`; or an example is longer than the context, or the adapter
                was dropped for another one meanwhile.
        """
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
            max_bytes=self._max_resident_bytes or self._fitting().adapter_bytes,
            first_use_seconds=FIRST_USE_SECONDS,
            clock=self._clock,
        )
        return self._resident

    def _training_bytes(self) -> int:
        """Return the memory for the trainings in hand; in the lane."""
        return self._max_training_bytes or self._fitting().training_bytes

    def _fitting(self) -> DeviceSizes:
        """Return what fits the device; in the lane, where the model is loaded."""
        sizes = self._engine.sizes
        if sizes is None:
            raise AdaptationError("the engine has not loaded its model")
        return sizes

    def _runner(self, loaded: LoadedModel) -> PassRunner:
        model = self._adapters().adapted
        if self._together is None:
            self._together = most_together(model.device)
        if loaded.is_placed:  # a stack of adapters lies on one device
            self._together = 1
        return PassRunner(
            model,
            capture=capture_for(model.device) if loaded.may_be_recorded else None,
            fits=partial(self._planner.fits, loaded, model),
        )

    def _may_join(self, active: Sequence[TrainingPlan], plan: TrainingPlan) -> bool:
        """Tell whether a training may go on beside others."""
        if len(active) >= (self._together or 1):
            return False
        left = self._training_bytes() - self._held_bytes()
        return fit_together([*active, plan], max_training_bytes=left)

    def _held_bytes(self) -> int:
        """Return the memory of adapters that are done and wait for room among the resident."""
        with self._lock:
            return sum(other.adapter_bytes for other in self._plans if other.is_trained)

    def _adapters(self) -> ResidentAdapters:
        if self._resident is None:
            raise AdaptationError("the engine has not loaded its adapters: make a new engine")
        return self._resident

    @contextmanager
    def _in_hand(self, plan: TrainingPlan, watch: TrainingWatch) -> Generator[None]:
        """Let a training wait for its turn, if it can end in time.

        Raises:
            BudgetExceeded: It cannot, after the trainings that wait before it.
        """
        with self._lock:
            plans = [other for other in self._plans if not other.is_trained]
            # The last of those before it may go on beside it.
            first = plans[: max(0, len(plans) + 1 - (self._together or 1))]
            before = sum(other.least_work for other in first)
            needed = self._pace.least_seconds(before + plan.least_work)
            left = math.inf if watch.deadline is None else watch.deadline - watch.clock()
            if needed > left:
                raise BudgetExceeded(
                    f"a training would end in {needed:.1f} s at the earliest, with "
                    f"{len(self._plans)} before it, and {left:.1f} s are left: raise "
                    "budget_seconds, lower k, ttt_epochs or ttt_min_steps, or ask again later"
                )
            self._plans.append(plan)
        try:
            yield
        finally:
            with self._lock:
                self._plans.remove(plan)

    def _train(
        self,
        loaded: LoadedModel,
        plan: TrainingPlan,
        watch: TrainingWatch,
        began: float,
        start: TrainedAdapter | None,
    ) -> Generator[Pass, float, tuple[TrainedAdapter, Adapter]]:
        model, settings = self._adapters().adapted, plan.settings
        with _translated(f"train adapter {plan.key!r} on {len(plan.examples)} samples"):
            self._check_waiting(plan)
            self._measure(model, plan, watch)
            adapter = fresh_adapter(model.layout, settings, device=model.device)
            if start is not None:
                begin_with(adapter, self._read(loaded, start))
            trained = yield from training_passes(
                model, adapter, plan.epoch, settings, watch, plan.works
            )
            weights = to_bytes(trained.adapter, model.layout)
        made = TrainedAdapter(
            key=plan.key,
            weights=weights,
            base_fingerprint=loaded.fingerprint,
            trained_tokens=trained.trained_tokens,
            steps=len(trained.losses),
            losses=trained.losses,
            seconds=self._clock() - began,
            provenance=_provenance(model, settings, trained),
        )
        return made, trained.adapter

    def _check_waiting(self, plan: TrainingPlan) -> None:
        """Refuse a training beside adapters that are done and find no room among the resident."""
        held, needed, most = self._held_bytes(), plan.training_bytes, self._training_bytes()
        if held + needed > most:
            raise AdaptationError(
                f"trained adapters of {held} bytes wait for room, and {needed} more exceed "
                f"max_training_bytes={most}: raise max_resident_bytes or max_training_bytes, or "
                "ask again later",
                retryable=True,
            )

    def _measure(self, model: AdaptedModel, plan: TrainingPlan, watch: TrainingWatch) -> None:
        """Measure the pace on a beginning, if nothing is known of it and the first pass is large.

        Nothing is kept of it.
        """
        if self._pace.is_known or watch.deadline is None:
            return
        if plan.works[0][0] < _LARGE * _PROBE_TOKENS:
            return
        ids = max(plan.examples, key=lambda each: len(each.ids)).ids[:_PROBE_TOKENS]
        probe = EncodedExample(ids=ids, answer_tokens=1)
        limits = StepLimits(token_bytes=0.0, answer_bytes=0.0, max_bytes=1.0)
        [batch] = pack([probe], limits, device=model.device, share_prefix=False)
        settings = replace(plan.settings, epochs=1, min_steps=1)
        adapter = fresh_adapter(model.layout, settings, device=model.device)
        work = limits.work(batch)
        quiet = replace(watch, on_step=_unseen)
        for _ in training_steps(model, adapter, [[batch]], settings, quiet, [[work]]):
            pass

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
        "learning_rate": learning_rate_for(model, settings),
        "seed": settings.seed,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "products": str(model.products).removeprefix("torch."),
        PEFT_CONFIG: layout.peft_config(
            rank=adapter.rank, alpha=adapter.alpha, first=adapter.first
        ),
    }


def _unseen(step: TrainStep) -> None:
    """Look away: a step that only measures is nobody's."""
    del step


@contextmanager
def _translated(action: str) -> Generator[None]:
    """Re-raise what torch raises as AdaptationError, and let go of the tensors it holds on to.

    The frames of a failed or late pass hold its tensors for as long as somebody keeps the error.
    """
    try:
        yield
    except RttcError as exc:
        let_go(exc)
        raise
    except Exception as exc:
        let_go(exc)
        if is_out_of_memory(exc):
            raise AdaptationError(
                f"out of memory, could not {action}: use fewer or shorter samples, a lower rank "
                "or a lower max_pass_bytes"
            ) from exc
        raise AdaptationError(f"could not {action}: {exc}") from exc
