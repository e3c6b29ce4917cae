"""A trainer around another one, which hands each adapter to whoever answers with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from rttc_graph.errors import AdaptationError
from rttc_graph.protocols import (
    AdapterTrainer,
    ContinuingTrainer,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
)
from rttc_graph.settings import TttSettings


class HandingTrainer(ABC):
    """Trains and measures with another trainer; where an adapter is resident is the subclass's.

    Args:
        trainer: Trains on this machine.
    """

    def __init__(self, trainer: AdapterTrainer) -> None:
        self._trainer = trainer

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model that the adapters are trained on."""
        return await self._trainer.base_fingerprint()

    async def train(
        self,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        """Train an adapter and hand it over under `key`.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed, or nobody took the adapter.
        """
        adapter = await self._trainer.train(
            key, examples, settings, on_step=on_step, deadline=deadline
        )
        await self.load(adapter)
        return adapter

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
        """Train an adapter from the weights of another one, and hand it over under `key`.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed, the trainer cannot begin with an adapter, or
                nobody took what came of it.
        """
        if not isinstance(self._trainer, ContinuingTrainer):
            raise AdaptationError(
                f"a {type(self._trainer).__name__} cannot go on from an adapter: give it train_on"
            )
        adapter = await self._trainer.train_on(
            start, key, examples, settings, on_step=on_step, deadline=deadline
        )
        await self.load(adapter)
        return adapter

    @abstractmethod
    async def is_resident(self, key: str) -> bool:
        """Tell whether `generate` can use the adapter `key` right away.

        Raises:
            AdaptationError: Nobody answers.
        """

    @abstractmethod
    async def load(self, adapter: TrainedAdapter) -> None:
        """Hand over a stored adapter, unless it is there.

        Raises:
            AdaptationError: It was made for another base, or nobody took it.
        """

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return the adapter's loss on the examples, which is computed on this machine."""
        return await self._trainer.loss(adapter, examples)
