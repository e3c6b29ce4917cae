"""`retrieve`: embeds the query, asks the query-state cache, then the knowledge base."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

from typing_extensions import TypedDict

from rttc_graph.arms import FINISH, JUDGE
from rttc_graph.errors import EmbeddingError, UnusableAdapterError
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedded,
    Embedder,
    KnowledgeBase,
    MeasuringEmbedder,
    QueryStateCache,
    RecalledState,
)
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.policies import decide
from rttc_graph.run.recalling import recall_request
from rttc_graph.run.scope import RunScope
from rttc_graph.run.survival import Failure, survive
from rttc_graph.state import (
    Adapted,
    Attempt,
    CacheReport,
    Decision,
    LedgerEntry,
    RttcState,
    Sample,
    Spent,
)


class RetrieveUpdate(TypedDict):
    """State update of `retrieve`."""

    vector: list[float]
    samples: list[Sample]
    retrieved: bool
    revision: int | None
    adapted: Adapted | None
    cache: CacheReport
    decision: Decision
    attempt: Attempt
    spent: Spent
    ledger: list[LedgerEntry]


@dataclass(slots=True, kw_only=True)
class _Found:
    """Results of one retrieval so far."""

    vector: list[float] = field(default_factory=list[float])
    unread: int = 0
    samples: list[Sample] = field(default_factory=list[Sample])
    revision: int | None = None
    adapted: Adapted | None = None
    cache: CacheReport = field(default_factory=lambda: CacheReport(samples="miss", adapter="miss"))
    entries: list[LedgerEntry] = field(default_factory=list[LedgerEntry])

    def failed(self, what: str, failure: Failure, *, since: float) -> None:
        self.entries.append(
            entry("retrieve", "failed", since=since, what=what, error=failure.reason)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieve:
    """Finds samples and, if one was trained for a near query, an adapter."""

    arms: frozenset[Attempt]
    embedder: Embedder
    knowledge_base: KnowledgeBase
    cache: QueryStateCache | None = None
    trainer: AdapterTrainer | None = None

    async def __call__(self, state: RttcState, scope: RunScope) -> RetrieveUpdate:
        """Leave samples, their revision and a recalled adapter, as far as there are any."""
        found = _Found()
        if await self._embed(state, scope, found):
            if self.cache and scope.settings.use_cache and not found.unread:
                await self._recall(self.cache, state, scope, found)
            if not found.samples:
                await self._search(state, scope, found)
        seen: RttcState = {
            **state,
            "samples": found.samples,
            "retrieved": True,
            "adapted": found.adapted,
            "spent": added(state["spent"], since=scope.started),
        }
        choice = decide(seen, scope.settings, arms=self.arms)
        return {
            "vector": found.vector,
            "samples": found.samples,
            "retrieved": True,
            "revision": found.revision,
            "adapted": found.adapted,
            "cache": found.cache,
            "decision": JUDGE if choice.decision == FINISH else choice.decision,
            "attempt": choice.attempt,
            "spent": added(state["spent"], since=scope.started),
            "ledger": record(state, scope, found.entries),
        }

    async def _embed(self, state: RttcState, scope: RunScope, found: _Found) -> bool:
        query = state["task"]["query"]
        embedded = await survive(self._embedded(query), deadline=scope.deadline)
        if isinstance(embedded, Failure):
            found.failed("embed the query", embedded, since=scope.started)
            return False
        found.vector, found.unread = embedded.vector, embedded.unread
        if found.unread:
            # What was left out may be all that tells two questions apart, so nothing is recalled.
            found.entries.append(
                entry(
                    "retrieve",
                    "shortened",
                    since=scope.started,
                    what="the question for the embedder",
                    characters=len(query),
                    characters_unread=found.unread,
                    recalls=False,
                )
            )
        return True

    async def _embedded(self, query: str) -> Embedded:
        if hasattr(self.embedder, "embed_measured"):
            found = await cast("MeasuringEmbedder", self.embedder).embed_measured([query])
        else:
            vectors = await self.embedder.embed([query])
            found = [Embedded(vector=vector, unread=0) for vector in vectors]
        if len(found) != 1:
            raise EmbeddingError(f"{self.embedder.name} gave {len(found)} vectors for 1 text")
        return found[0]

    async def _recall(
        self, cache: QueryStateCache, state: RttcState, scope: RunScope, found: _Found
    ) -> None:
        since = time.monotonic()
        recalled = await survive(
            self._ask_cache(cache, state, scope, found), deadline=scope.deadline
        )
        if isinstance(recalled, Failure):
            found.failed("ask the query-state cache", recalled, since=since)
            return
        if recalled.samples:
            found.samples, found.revision = recalled.samples, recalled.revision
            found.cache["samples"] = "hit"
        if recalled.adapter and self.trainer:
            await self._load_adapter(cache, self.trainer, recalled, scope, found)
        found.entries.append(
            entry(
                "retrieve",
                "recalled",
                since=since,
                **found.cache,
                choice=scope.settings.samples_choice,
                samples_similarity=recalled.samples_similarity,
                adapter_similarity=recalled.adapter_similarity,
                adapter_key=recalled.adapter,
            )
        )

    async def _ask_cache(
        self, cache: QueryStateCache, state: RttcState, scope: RunScope, found: _Found
    ) -> RecalledState:
        settings = scope.settings
        return await cache.recall(
            recall_request(
                settings,
                vector=found.vector,
                domain=state["task"]["domain"],
                base_fingerprint=await self.trainer.base_fingerprint() if self.trainer else None,
                adapter_similarity=settings.adapter_similarity,
            )
        )

    async def _load_adapter(
        self,
        cache: QueryStateCache,
        trainer: AdapterTrainer,
        recalled: RecalledState,
        scope: RunScope,
        found: _Found,
    ) -> None:
        since, key = time.monotonic(), recalled.adapter or ""
        ready = await survive(_make_resident(cache, trainer, key), deadline=scope.deadline)
        if isinstance(ready, Failure):
            found.failed("load the recalled adapter", ready, since=since)
        elif ready:
            found.cache["adapter"] = "hit"
            found.adapted = {
                "key": key,
                "origin": "recalled",
                "seconds": time.monotonic() - since,
                "trained_tokens": 0,
                "rests_on": _trained_on(recalled),
            }

    async def _search(self, state: RttcState, scope: RunScope, found: _Found) -> None:
        since = time.monotonic()
        task, settings = state["task"], scope.settings
        result = await survive(
            self.knowledge_base.search(
                found.vector,
                k=settings.k,
                domain=task["domain"],
                tenant=settings.tenant,
                choice=settings.samples_choice,
            ),
            deadline=scope.deadline,
        )
        if isinstance(result, Failure):
            found.failed("search the knowledge base", result, since=since)
            return
        found.samples, found.revision = result.samples, result.revision
        best = found.samples[0]["similarity"] if found.samples else None
        found.entries.append(
            entry(
                "retrieve",
                "retrieved",
                since=since,
                samples=len(found.samples),
                choice=settings.samples_choice,
                domain=task["domain"],
                best_similarity=best,
            )
        )


def _trained_on(recalled: RecalledState) -> list[str]:
    """Return the ids of the recalled samples that the recalled adapter was trained on.

    Samples and adapter of one earlier query belong together; those of two do not.
    """
    if recalled.samples is None or recalled.samples_similarity != recalled.adapter_similarity:
        return []
    return [sample["id"] for sample in recalled.samples]


async def _make_resident(cache: QueryStateCache, trainer: AdapterTrainer, key: str) -> bool:
    """Make the adapter usable; `False` when it is gone from the cache."""
    if await trainer.is_resident(key):
        return True
    stored = await cache.load_adapter(key, base_fingerprint=await trainer.base_fingerprint())
    if stored is None:
        return False
    try:
        await trainer.load(stored)
    except UnusableAdapterError:
        await cache.discard_adapter(key)
        raise
    return True
