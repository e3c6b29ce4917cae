"""The seam to the query-state cache: samples and adapters of earlier queries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from rttc_graph.protocols.adapter_trainer import TrainedAdapter
from rttc_graph.protocols.embedder import Vector
from rttc_graph.settings import SamplesChoice
from rttc_graph.state import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRequest:
    """Request of `retrieve` to the query-state cache."""

    vector: Vector
    domain: str | None
    tenant: str
    k: int
    """Number of samples; samples are recalled only if they were retrieved for the same `k`."""
    choice: SamplesChoice = "nearest"
    """Choice of samples; samples are recalled only if they were retrieved by the same choice."""
    samples_similarity: float
    """Lowest cosine similarity at which another query's samples are used."""
    adapter_similarity: float
    """Lowest cosine similarity at which another query's adapter is used."""
    base_fingerprint: str | None
    """Fingerprint of the base model that an adapter must fit; `None` for no adapter."""
    training_fingerprint: str
    """Training settings that an adapter must have been made with
    (`RttcSettings.training_fingerprint`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledState:
    """Samples and adapter of a similar earlier query."""

    samples: list[Sample] | None
    """Samples of the earlier query, with their similarity to it; `None` on a miss."""
    samples_similarity: float | None
    revision: int | None
    adapter: str | None
    adapter_similarity: float | None
    rejected_adapter: str | None = None
    """Key of the adapter that was trained on these samples for the earlier query, and did not raise
    the reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryState:
    """Samples, adapter and reward that are stored for a query."""

    query: str
    vector: Vector
    domain: str | None
    tenant: str
    k: int
    choice: SamplesChoice = "nearest"
    samples: list[Sample]
    revision: int
    adapter: str | None
    training_fingerprint: str
    reward: float | None
    """Reward of the answer that the adapter gave."""
    rejected_adapter: str | None = None
    """Key of the adapter that was trained for it and did not raise the reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLookup:
    """An adapter from the cache, and where it came from."""

    adapter: TrainedAdapter
    origin: Literal["cache", "near", "trained", "waited"]
    """Origin of the adapter: stored already, stored for a near query, trained by this call, or
    trained meanwhile by another request."""


class QueryStateCache(Protocol):
    """Keeps what was retrieved and trained for queries, searchable by vector."""

    async def recall(self, request: RecallRequest) -> RecalledState:
        """Return the nearest usable samples and adapter; both `None` on a miss.

        States of an older revision of the domain are never returned.

        Raises:
            QueryStateCacheError: The look-up failed.
        """
        ...

    async def remember(self, state: QueryState) -> None:
        """Store a query's state, replacing what was stored for the same query, then evict.

        A state without an adapter leaves the adapter of an earlier one at the same revision.
        """
        ...

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        """Return a stored adapter; `None` if it is gone or was made for another base."""
        ...

    async def get_or_train(
        self,
        key: str,
        *,
        base_fingerprint: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        deadline: float | None = None,
    ) -> AdapterLookup:
        """Return the adapter `key`, training it once however many requests and processes ask.

        Raises:
            BudgetExceeded: The deadline passed while another request was training it.
            QueryStateCacheError: The cache failed; what `train` raises is passed on as it is.
        """
        ...

    async def discard_adapter(self, key: str) -> None:
        """Drop an adapter that did not raise the reward; no query state refers to it afterwards."""
        ...
