"""`retrieve`: embeds the query, asks the query-state cache, then the knowledge base."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from typing_extensions import TypedDict

from rttc_graph.arms import FINISH, JUDGE, RETRIEVE
from rttc_graph.errors import EmbeddingError, UnusableAdapterError
from rttc_graph.nodes.retrieving.rewriting import Rewritten, rewritten_follow_up
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedded,
    KnowledgeBase,
    MeasuringEmbedder,
    PolicyModel,
    QueryStateCache,
    RecalledState,
    SearchResult,
)
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import Notes, record
from rttc_graph.run.policies import decide
from rttc_graph.run.recalling import LOAD_RECALLED, recall_request
from rttc_graph.run.scope import RunScope
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

_REWRITE_SHARE = 0.25
"""Share of the budget of seconds that may go into a follow-up, before any answer."""


class RetrieveUpdate(TypedDict):
    """State update of `retrieve`."""

    searched_with: str
    vector: list[float]
    samples: list[Sample]
    retrieved: bool
    revision: int | None
    adapted: Adapted | None
    rejected_adapter: str | None
    cache: CacheReport
    decision: Decision
    attempt: Attempt
    spent: Spent
    ledger: list[LedgerEntry]


def _all_missed() -> CacheReport:
    return {"samples": "miss", "adapter": "miss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is in hand after a look-up: samples with their revision, and a recalled adapter."""

    samples: list[Sample] = field(default_factory=list[Sample])
    revision: int | None = None
    adapted: Adapted | None = None
    rejected_adapter: str | None = None
    cache: CacheReport = field(default_factory=_all_missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieve:
    """Finds samples and, if one was trained for a near query, an adapter."""

    arms: frozenset[Attempt]
    embedder: MeasuringEmbedder
    knowledge_base: KnowledgeBase
    cache: QueryStateCache | None = None
    trainer: AdapterTrainer | None = None
    policy_model: PolicyModel | None = None
    """Rewrites follow-ups; without it they are searched with as they are."""

    async def __call__(self, state: RttcState, scope: RunScope) -> RetrieveUpdate:
        """Leave samples, their revision and a recalled adapter, as far as there are any."""
        notes = Notes(RETRIEVE)
        rewritten = await self._rewritten(state, scope, notes)
        embedded = await self._embed(rewritten.question or state["task"]["query"], scope, notes)
        found = _Found()
        if embedded is not None:
            found = await self._look_up(embedded, state, scope, notes)
            found = _without_far_samples(found, scope, notes)
        spent = added(state["spent"], since=scope.started, tokens=rewritten.tokens)
        seen: RttcState = {
            **state,
            "samples": found.samples,
            "retrieved": True,
            "adapted": found.adapted,
            "spent": spent,
        }
        choice = decide(seen, scope.settings, arms=self.arms)
        return {
            "searched_with": rewritten.question,
            "vector": embedded.vector if embedded is not None else [],
            "samples": found.samples,
            "retrieved": True,
            "revision": found.revision,
            "adapted": found.adapted,
            "rejected_adapter": found.rejected_adapter,
            "cache": found.cache,
            "decision": JUDGE if choice.decision == FINISH else choice.decision,
            "attempt": choice.attempt,
            "spent": spent,
            "ledger": record(state, scope, notes.entries),
        }

    async def _rewritten(self, state: RttcState, scope: RunScope, notes: Notes) -> Rewritten:
        """Return a follow-up as a question that stands alone, where the settings want that."""
        history = state["task"]["history"]
        talked = any(turn["role"] != "system" for turn in history)
        if self.policy_model is None or not scope.settings.rewrite_follow_ups or not talked:
            return Rewritten()
        since = time.monotonic()
        made = await survive(
            rewritten_follow_up(self.policy_model, state["task"], scope),
            deadline=since + scope.allowance.seconds * _REWRITE_SHARE,
        )
        if isinstance(made, Failure):
            notes.add_failure(made, since=since, what="rewrite the follow-up")
            return Rewritten()
        notes.add(
            "rewritten",
            since=since,
            question=made.question or state["task"]["query"],
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
        )
        return made

    async def _embed(self, query: str, scope: RunScope, notes: Notes) -> Embedded | None:
        embedded = await survive(self._embedded(query), deadline=scope.deadline)
        if isinstance(embedded, Failure):
            notes.add_failure(embedded, since=scope.started, what="embed the query")
            return None
        if embedded.unread:
            notes.add(
                "shortened",
                since=scope.started,
                what="the question for the embedder",
                characters=len(query),
                characters_unread=embedded.unread,
                recalls=False,
            )
        return embedded

    async def _embedded(self, query: str) -> Embedded:
        vectors = await self.embedder.embed_measured([query])
        if len(vectors) != 1:
            raise EmbeddingError(f"{self.embedder.name} gave {len(vectors)} vectors for 1 text")
        return vectors[0]

    async def _look_up(
        self, embedded: Embedded, state: RttcState, scope: RunScope, notes: Notes
    ) -> _Found:
        """Return what the cache has, with samples of the knowledge base where it has none."""
        found = _Found()
        # What was left unread may be all that tells two questions apart: nothing is recalled then.
        if self.cache and scope.settings.use_cache and not embedded.unread:
            found = await self._recall(self.cache, embedded.vector, state, scope, notes)
        if found.samples:
            return found
        result = await self._search(embedded.vector, state, scope, notes)
        if result is None:
            return found
        return replace(found, samples=result.samples, revision=result.revision)

    async def _recall(
        self,
        cache: QueryStateCache,
        vector: list[float],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> _Found:
        since = time.monotonic()
        recalled = await survive(
            self._ask_cache(cache, vector, state, scope), deadline=scope.deadline
        )
        if isinstance(recalled, Failure):
            notes.add_failure(recalled, since=since, what="ask the query-state cache")
            return _Found()
        adapted = None
        if recalled.adapter and self.trainer:
            adapted = await _load_adapter(cache, self.trainer, recalled, scope, notes)
        report: CacheReport = {
            "samples": "hit" if recalled.samples else "miss",
            "adapter": "hit" if adapted else "miss",
        }
        notes.add(
            "recalled",
            since=since,
            **report,
            choice=scope.settings.samples_choice,
            samples_similarity=recalled.samples_similarity,
            adapter_similarity=recalled.adapter_similarity,
            adapter_key=recalled.adapter,
        )
        return _Found(
            samples=recalled.samples or [],
            revision=recalled.revision if recalled.samples else None,
            adapted=adapted,
            rejected_adapter=recalled.rejected_adapter,
            cache=report,
        )

    async def _ask_cache(
        self, cache: QueryStateCache, vector: list[float], state: RttcState, scope: RunScope
    ) -> RecalledState:
        settings = scope.settings
        return await cache.recall(
            recall_request(
                settings,
                state,
                vector=vector,
                base_fingerprint=await self.trainer.base_fingerprint() if self.trainer else None,
                adapter_similarity=settings.adapter_similarity,
            )
        )

    async def _search(
        self, vector: list[float], state: RttcState, scope: RunScope, notes: Notes
    ) -> SearchResult | None:
        since = time.monotonic()
        task, settings = state["task"], scope.settings
        result = await survive(
            self.knowledge_base.search(
                vector,
                k=settings.k,
                domain=task["domain"],
                tenant=settings.tenant,
                choice=settings.samples_choice,
            ),
            deadline=scope.deadline,
        )
        if isinstance(result, Failure):
            notes.add_failure(result, since=since, what="search the knowledge base")
            return None
        notes.add(
            "retrieved",
            since=since,
            samples=len(result.samples),
            choice=settings.samples_choice,
            domain=task["domain"],
            best_similarity=result.samples[0]["similarity"] if result.samples else None,
        )
        if result.fallback:
            notes.add("diverted", since=since, what="the search", reason=result.fallback)
        return result


async def _load_adapter(
    cache: QueryStateCache,
    trainer: AdapterTrainer,
    recalled: RecalledState,
    scope: RunScope,
    notes: Notes,
) -> Adapted | None:
    """Return the recalled adapter, resident; `None` if it is gone or cannot be used."""
    since, key = time.monotonic(), recalled.adapter or ""
    ready = await survive(_make_resident(cache, trainer, key), deadline=scope.deadline)
    if isinstance(ready, Failure):
        notes.add_failure(ready, since=since, what=LOAD_RECALLED)
        return None
    if not ready:
        return None
    return {
        "key": key,
        "origin": "recalled",
        "seconds": time.monotonic() - since,
        "trained_tokens": 0,
        "rests_on": _trained_on(recalled),
    }


def _without_far_samples(found: _Found, scope: RunScope, notes: Notes) -> _Found:
    """Return what was found without the samples, if not even the nearest one is near enough.

    All or none, since samples are remembered for other runs, whose limit may be another one.
    """
    lowest = scope.settings.lowest_similarity
    nearest = max((sample["similarity"] for sample in found.samples), default=1.0)
    if lowest == 0 or nearest >= lowest:
        return found
    name = "min_similarity" if scope.settings.min_similarity else "evidence_similarity"
    notes.add(
        "dropped",
        since=scope.started,
        samples=len(found.samples),
        best_similarity=nearest,
        lowest_similarity=lowest,
        reason=f"no sample is used: the nearest has the similarity {nearest:.3f}, below "
        f"{name}={lowest:g}",
    )
    return replace(found, samples=[])


def _trained_on(recalled: RecalledState) -> list[str]:
    """Return the ids of the recalled samples that the recalled adapter was trained on.

    Samples and adapter of one earlier query belong together; those of two do not.
    """
    if recalled.samples is None or recalled.samples_similarity != recalled.adapter_similarity:
        return []
    return [sample["id"] for sample in recalled.samples]


async def _make_resident(cache: QueryStateCache, trainer: AdapterTrainer, key: str) -> bool:
    """Make the adapter usable; `False` when it is gone from the cache."""
    if await trainer.is_resident(key):  # its bytes need not come from the cache
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
