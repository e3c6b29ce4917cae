"""What nodes ask the query-state cache, and an adapter of a near query put to the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rttc_graph.errors import UnusableAdapterError
from rttc_graph.protocols import (
    AdapterTrainer,
    QueryStateCache,
    RecallRequest,
    TrainedAdapter,
    TrainingExample,
    Vector,
)
from rttc_graph.settings import RttcSettings
from rttc_graph.state import RttcState

__all__ = (
    "LOAD_RECALLED",
    "CheckedAdapter",
    "checked_adapter",
    "not_loaded",
    "recall_request",
    "training_fingerprint",
)

CHECKED_EXAMPLES = 2
"""The nearest ones, on which an adapter is tried: a tenth of the time of a training, and as telling
as all eight (docs/experiments.md, "Warm start")."""


LOAD_RECALLED = "load the recalled adapter"
"""Piece of work named in the ledger where a recalled adapter could not be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAdapter:
    """An adapter that was trained for a near query, and what it makes of this one's samples."""

    adapter: TrainedAdapter
    similarity: float
    """Cosine, of its query to this one."""
    loss: float
    """On the nearest samples, nats per token of their answers."""


def training_fingerprint(settings: RttcSettings, state: RttcState) -> str:
    """Return the digest of how adapters are trained in a run, for the query-state cache.

    Where the domain has an adapter of its own, others begin with it and fit nothing else.
    """
    standing = state.get("standing")
    digest = settings.training_fingerprint
    return f"{digest}-on-{standing[:16]}" if standing else digest


def recall_request(
    settings: RttcSettings,
    state: RttcState,
    *,
    vector: Vector,
    base_fingerprint: str | None,
    adapter_similarity: float,
) -> RecallRequest:
    """Return what a run asks the cache about a query."""
    return RecallRequest(
        vector=vector,
        domain=state["task"]["domain"],
        tenant=settings.tenant,
        k=settings.k,
        choice=settings.samples_choice,
        samples_similarity=settings.samples_similarity,
        adapter_similarity=adapter_similarity,
        base_fingerprint=base_fingerprint,
        training_fingerprint=training_fingerprint(settings, state),
    )


def not_loaded(state: RttcState) -> str | None:
    """Return the key of the adapter that was recalled in this run and could not be loaded."""
    ledger = state["ledger"]
    if all(one["detail"].get("what") != LOAD_RECALLED for one in ledger):
        return None
    recalled = [one["detail"]["adapter_key"] for one in ledger if one["event"] == "recalled"]
    return recalled[-1] if recalled else None


async def checked_adapter(
    cache: QueryStateCache,
    trainer: AdapterTrainer,
    request: RecallRequest,
    examples: Sequence[TrainingExample],
    *,
    without: str | None = None,
) -> CheckedAdapter | None:
    """Return the adapter of the nearest query with its loss; `None` if there is none.

    Args:
        cache: Is asked once, and once more for the adapter.
        trainer: Trainer for the adapter's base model.
        request: With the lowest similarity that is worth a check.
        examples: The nearest to the query first.
        without: Key of an adapter that is of no use in this run.

    Raises:
        QueryStateCacheError: The cache failed.
        AdaptationError: The adapter does not fit, or could not be tried.
    """
    recalled = await cache.recall(request)
    if recalled.adapter in (None, without) or request.base_fingerprint is None:
        return None
    adapter = await cache.load_adapter(recalled.adapter, base_fingerprint=request.base_fingerprint)
    if adapter is None:
        return None
    try:
        loss = await trainer.loss(adapter, examples[:CHECKED_EXAMPLES])
    except UnusableAdapterError:
        await cache.discard_adapter(adapter.key)
        raise
    similarity = recalled.adapter_similarity or 0.0
    return CheckedAdapter(adapter=adapter, similarity=similarity, loss=loss)
