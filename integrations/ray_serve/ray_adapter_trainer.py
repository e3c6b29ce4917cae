"""The trainers of a cluster. Adapters go from them to the policy model through the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rttc_graph.errors import AdaptationError, QueryStateCacheError, RttcError
from rttc_graph.integrations.ray_serve.handle_calls import HandleCalls
from rttc_graph.integrations.ray_serve.model_replica import AdapterStore
from rttc_graph.protocols import TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.settings import TttSettings

__all__ = ("RayAdapterTrainer",)


class RayAdapterTrainer:
    """Implements `AdapterTrainer` by the handles of trainers and of the policy model.

    Args:
        trainers: Deployment that trains; the policy model's own where nobody else does.
        policy: Deployment that answers with the adapters.
        store: Where adapters are for good; the replicas read and write the same one.
        base_fingerprint: Digest of the base model on the replicas.
        came: Counts how calls found their adapter; shared with the policy model.
    """

    def __init__(
        self,
        trainers: HandleCalls,
        policy: HandleCalls,
        store: AdapterStore,
        *,
        base_fingerprint: str,
        came: Counter[str],
    ) -> None:
        self._trainers = trainers
        self._policy = policy
        self._store = store
        self._base = base_fingerprint
        self._came = came

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model's weights and configuration."""
        return self._base

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        """Train an adapter on a trainer, store it, make it resident on a replica, and return it.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed, all trainers have as much to do as they take, or
                the adapter was dropped from the database at once.
        """
        made: TrainedAdapter = await self._trainers.follow_within(
            deadline, "train", key, tuple(examples), settings, on_item=on_step, key=key
        )
        if made.weights:  # the database did not take it, and it must not be lost
            await self._policy.call("take", made, key=key)
            return made
        await self._policy.call("hold", key, key=key)
        return await self._stored(key)

    async def is_resident(self, key: str) -> bool:
        """Tell whether a replica can use the adapter; one that is stored is made resident.

        Raises:
            BackendError: No replica answers.
        """
        try:
            was_there: bool = await self._policy.call("hold", key, key=key)
        except (AdaptationError, QueryStateCacheError):
            return False
        self._came["recall_resident" if was_there else "recall_loaded"] += 1
        return True

    async def load(self, adapter: TrainedAdapter) -> None:
        """Make a stored adapter resident on a replica, and store it if it is not.

        Raises:
            AdaptationError: It was made for another base, its bytes are damaged, or the database
                did not take it.
        """
        if adapter.base_fingerprint != self._base:
            raise AdaptationError(
                f"adapter {adapter.key!r} was made for the base {adapter.base_fingerprint!r}, the "
                f"replicas have {self._base!r}: train it again"
            )
        if await self.is_resident(adapter.key):
            return
        try:
            await self._store.keep_adapter(adapter)
        except QueryStateCacheError as exc:
            raise AdaptationError(
                f"adapter {adapter.key!r} cannot go to a replica: {exc}", retryable=exc.retryable
            ) from exc
        try:
            await self._policy.call("hold", adapter.key, key=adapter.key)
        except RttcError:
            await self._store.discard_adapter(adapter.key)
            raise

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return an adapter's loss on examples, in nats per answer token, from a replica.

        Raises:
            AdaptationError: As `load`, or the model failed.
        """
        await self.load(adapter)
        found: float = await self._policy.call(
            "loss", adapter.key, tuple(examples), key=adapter.key
        )
        return found

    async def _stored(self, key: str) -> TrainedAdapter:
        adapter = await self._store.load_adapter(key, base_fingerprint=self._base)
        if adapter is None:
            raise AdaptationError(
                f"adapter {key!r} was trained and dropped from the database at once: raise "
                "cache_max_bytes",
                retryable=True,
            )
        return adapter
