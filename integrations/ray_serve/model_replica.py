"""What runs in a replica of the policy model or a trainer: the model with its adapters.

A plain class, which Ray Serve makes a deployment of. A call brings seconds that are left, not a
deadline, since clocks of two machines are not the same. An adapter comes by its key: its bytes are
read from the database where they are needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rttc_graph.errors import AdaptationError, QueryStateCacheError
from rttc_graph.integrations.ray_serve.handle_calls import run_apart
from rttc_graph.integrations.ray_serve.ray_library import serve_library
from rttc_graph.integrations.ray_serve.replica_metrics import ReplicaMetrics
from rttc_graph.protocols import (
    AdapterTrainer,
    Generation,
    GenerationRequest,
    OptionProbabilities,
    OptionsRequest,
    PolicyModel,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
    WeighingPolicyModel,
    can_continue,
    can_follow_schema,
    can_weigh,
    parameters_of,
)
from rttc_graph.settings import TttSettings
from rttc_graph.state import ChatTurn

__all__ = ("AdapterStore", "ModelFacts", "ModelReplica", "ReplicaModel", "announcing")

_TRIES = 3
"""Times that an adapter is loaded for one call, before its being thrown out again is an error."""


class AdapterStore(Protocol):
    """The place where adapters are for good; the query-state cache in Postgres is one."""

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        ...

    async def keep_adapter(self, adapter: TrainedAdapter) -> None:
        """Store an adapter, unless it is there.

        Raises:
            QueryStateCacheError: It was not stored.
        """
        ...

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """A policy model that is open, its trainer, and the store of its adapters."""

    model: PolicyModel
    trainer: AdapterTrainer
    store: AdapterStore
    resident: Callable[[], Mapping[str, float]] | None = None
    """Returns the number and the bytes of the adapters in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What callers know of a policy model without asking each time."""

    made_from: str
    """Digest of the settings that the deployment was made from."""
    name: str
    continues_answers: bool
    follows_schemas: bool
    weighs: bool
    context_tokens: int | None
    parameters: int | None
    base_fingerprint: str


class ModelReplica:
    """A policy model in a replica, which answers and trains.

    Args:
        open_model: Opens it; called once.
        most_adapters: Adapters that Ray Serve is told of, at most.
        made_from: Digest of the settings that the deployment is made from.
    """

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[ReplicaModel]],
        most_adapters: int,
        made_from: str,
    ) -> None:
        self._stack = ExitStack()
        self._parts = self._stack.enter_context(open_model())
        self._announce = announcing(most_adapters)
        self._metrics = ReplicaMetrics(self._parts.resident)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._facts = run_apart(self._described(made_from))

    def __del__(self) -> None:
        self._stack.close()

    async def describe(self) -> ModelFacts:
        """Return what callers want to know of the model."""
        return self._facts

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        """Return the length of a prompt in tokens."""
        return await self._parts.model.count_tokens(messages)

    async def generate(
        self, requests: Sequence[GenerationRequest], seconds: float | None
    ) -> tuple[list[Generation], bool]:
        """Return the generations, and whether their adapter was resident when the call came.

        Args:
            requests: All with the same adapter, or with none.
            seconds: Time that is left.

        Raises:
            AdaptationError: The adapter could not be made resident.
            PolicyModelError: The model failed.
        """
        deadline = _deadline(seconds)
        was_there = await self.hold(requests[0].adapter)
        answers = await self._parts.model.generate(requests, deadline=deadline)
        self._metrics.count_answers(answers)
        return answers, was_there

    async def weigh(
        self, requests: Sequence[OptionsRequest], seconds: float | None
    ) -> tuple[list[OptionProbabilities], bool]:
        """Return the options' probabilities, and whether the adapter was resident; see `generate`.

        Raises:
            AdaptationError: The model does not weigh, or the adapter could not be made resident.
        """
        deadline = _deadline(seconds)
        was_there = await self.hold(requests[0].adapter)
        model = self._parts.model
        if not isinstance(model, WeighingPolicyModel):
            raise AdaptationError(f"{model.name} does not weigh given answers")
        return await model.weigh(requests, deadline=deadline), was_there

    async def hold(self, key: str | None) -> bool:
        """Make a stored adapter resident; return whether it was.

        Raises:
            AdaptationError: It is not in the database, or could not be loaded.
        """
        if key is None:
            return True
        was_there = await self._parts.trainer.is_resident(key)
        if not was_there:
            await self._load_once(key)
        await self._announce(key)
        self._metrics.count_held(was_there=was_there)
        return was_there

    async def take(self, adapter: TrainedAdapter) -> None:
        """Make an adapter resident that could not be stored.

        Raises:
            AdaptationError: It could not be loaded.
        """
        await self._parts.trainer.load(adapter)
        await self._announce(adapter.key)

    async def loss(self, key: str, examples: Sequence[TrainingExample]) -> float:
        """Return the loss of a stored adapter on examples, in nats per answer token.

        Raises:
            AdaptationError: It is not in the database, or could not be loaded.
        """
        found = await self._parts.trainer.loss(await self._stored(key), examples)
        await self._announce(key)
        return found

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        seconds: float | None,
    ) -> AsyncGenerator[TrainStep | TrainedAdapter]:
        """Train an adapter and store it; yield each step, then the adapter without its weights.

        An adapter that could not be stored comes with its weights, so that it is not lost.

        Raises:
            BudgetExceeded: The time was over before the training ended.
            AdaptationError: The training failed.
        """
        deadline, loop = _deadline(seconds), asyncio.get_running_loop()
        steps: asyncio.Queue[TrainStep | None] = asyncio.Queue()

        def note(step: TrainStep) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        training = asyncio.ensure_future(
            self._parts.trainer.train(key, examples, settings, on_step=note, deadline=deadline)
        )
        training.add_done_callback(lambda _: loop.call_soon(steps.put_nowait, None))
        try:
            while (step := await steps.get()) is not None:
                yield step
            adapter = await training
        finally:
            training.cancel()
        await self._announce(key)
        self._metrics.count_training(adapter)
        yield await self._kept(adapter)

    async def _kept(self, adapter: TrainedAdapter) -> TrainedAdapter:
        try:
            await self._parts.store.keep_adapter(adapter)
        except QueryStateCacheError:
            return adapter
        return replace(adapter, weights=b"")

    async def _load_once(self, key: str) -> None:
        """Load an adapter; callers that come at once wait for one load."""
        loading = self._loading.get(key)
        if loading is None:
            loading = asyncio.ensure_future(self._load(key))
            self._loading[key] = loading
            loading.add_done_callback(lambda _: self._loading.pop(key, None))
        await asyncio.shield(loading)  # a caller that is cancelled leaves it to the others

    async def _load(self, key: str) -> None:
        adapter = await self._stored(key)
        for _ in range(_TRIES):
            await self._parts.trainer.load(adapter)
            if await self._parts.trainer.is_resident(key):
                return

    async def _stored(self, key: str) -> TrainedAdapter:
        base = self._facts.base_fingerprint
        adapter = await self._parts.store.load_adapter(key, base_fingerprint=base)
        if adapter is None:
            raise AdaptationError(
                f"adapter {key!r} is not in the database: load it first, or train it again"
            )
        return adapter

    async def _described(self, made_from: str) -> ModelFacts:
        model = self._parts.model
        return ModelFacts(
            made_from=made_from,
            name=model.name,
            continues_answers=can_continue(model),
            follows_schemas=can_follow_schema(model),
            weighs=can_weigh(model),
            context_tokens=await model.context_tokens(),
            parameters=await parameters_of(model),
            base_fingerprint=await self._parts.trainer.base_fingerprint(),
        )


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def announcing(most_adapters: int) -> Callable[[str], Awaitable[Any]]:
    """Return what tells Ray Serve that this replica holds an adapter, least recently used out."""

    async def announced(key: str) -> str:
        return key

    decorate = serve_library().multiplexed(max_num_models_per_replica=most_adapters)
    found: Callable[[str], Awaitable[Any]] = decorate(announced)
    return found
