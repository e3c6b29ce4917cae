"""The seams to the trainer of adapters, which also loads them, and to adapters of whole domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from rttc_graph.settings import TttSettings
from rttc_graph.state import ChatTurn


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAdapter:
    """A LoRA adapter as bytes, with what it cost."""

    key: str
    weights: bytes
    """Weights in safetensors format, with peft's keys and metadata."""
    base_fingerprint: str
    trained_tokens: int
    steps: int
    losses: tuple[float, ...]
    """Mean loss of each step in nats per answer token."""
    seconds: float
    provenance: dict[str, Any]
    """Sample ids, training settings, seed, name of the base model, peft's configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """A prompt and the answer to learn; the loss counts the answer's tokens only."""

    messages: tuple[ChatTurn, ...]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """Progress of a training."""

    step: int
    """Number of the step, from 1."""
    steps: int
    """Most steps of the training; it may stop earlier."""
    loss: float
    """Loss of the step in nats per answer token."""


class AdapterTrainer(Protocol):
    """Trains LoRA adapters for a policy model from examples."""

    async def base_fingerprint(self) -> str:
        """Return a digest of the base model's weights and configuration."""
        ...

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

        The base model and every other request's output stay as they are, on success, error and
        cancellation alike. `on_step` is called from another thread.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed, for example out of memory or with a loss that is
                not finite.
        """
        ...

    async def is_resident(self, key: str) -> bool:
        """Tell whether `generate` can use the adapter `key` right away."""
        ...

    async def load(self, adapter: TrainedAdapter) -> None:
        """Make a stored adapter resident; do nothing if it is.

        Raises:
            AdaptationError: It was made for another base, or its bytes are damaged.
        """
        ...

    async def loss(self, adapter: TrainedAdapter, examples: Sequence[TrainingExample]) -> float:
        """Return a stored adapter's loss on examples.

        Returns:
            Mean over the examples of the negative log-likelihood of their answers' tokens, end
            token included, in nats per token.

        Raises:
            AdaptationError: It was made for another base, its bytes are damaged, or the model
                failed.
        """
        ...


@runtime_checkable
class ContinuingTrainer(AdapterTrainer, Protocol):
    """A trainer that can begin with an adapter that is trained already."""

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
        """Do what `train` does, from the weights of `start`, which stay as they are.

        What comes of it is one adapter, that is used without `start`.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: As `train`; or `start` was made for another base, or does not fit into
                an adapter of these settings.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAdapter:
    """An adapter that answers all questions of a domain in the place of the plain model."""

    domain: str
    base_fingerprint: str
    key: str
    card: Mapping[str, Any]
    """Figures of its training and its trial, as JSON."""
    created_at: datetime | None = None


class StandingAdapters(Protocol):
    """Says which domains have an adapter of their own."""

    async def standing_adapter(self, *, domain: str, tenant: str) -> str | None:
        """Return the key of a domain's adapter for the policy model; `None` if it has none.

        Raises:
            BackendError: It cannot be looked up.
        """
        ...

    async def stored(self, key: str) -> TrainedAdapter | None:
        """Return a stored adapter for the policy model; `None` if it is gone.

        Raises:
            BackendError: It cannot be read.
        """
        ...
