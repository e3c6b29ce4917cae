"""`ttt_adapt`: trains a LoRA adapter on the samples, or finds the one that was made of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from typing_extensions import TypedDict

from rttc_graph.errors import (
    AdaptationError,
    BudgetExceeded,
    QueryStateCacheError,
    UnusableAdapterError,
)
from rttc_graph.protocols import (
    AdapterLookup,
    AdapterTrainer,
    PolicyModel,
    QueryStateCache,
    TrainedAdapter,
    TrainingExample,
)
from rttc_graph.run.adapter_key import adapter_key
from rttc_graph.run.ask_person import ask_person, refused
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import entry, record
from rttc_graph.run.prompts import training_examples
from rttc_graph.run.recalling import checked_adapter, recall_request
from rttc_graph.run.scope import RunScope
from rttc_graph.run.survival import GRACE_SECONDS, Failure, survive
from rttc_graph.state import (
    Adapted,
    Attempt,
    CacheReport,
    ChatTurn,
    Decision,
    LedgerEntry,
    RttcState,
    Spent,
)


class AdaptUpdate(TypedDict, total=False):
    """State update of `ttt_adapt`."""

    adapted: Adapted | None
    tried: list[Attempt]
    cache: CacheReport
    decision: Decision
    attempt: Attempt
    spent: Spent
    ledger: list[LedgerEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class TttAdapt:
    """Gets the adapter of the samples in hand."""

    policy_model: PolicyModel
    trainer: AdapterTrainer
    cache: QueryStateCache | None = None

    async def __call__(self, state: RttcState, scope: RunScope) -> AdaptUpdate:
        """Leave the adapter in `adapted` for `generate`, or let `reward_judge` decide what next.

        Raises:
            langgraph.errors.GraphInterrupt: A person is to be asked first.
        """
        if scope.settings.ask_before_training:
            choice = ask_person(state).choice
            if choice != "train":
                return self._refused(choice, state, scope)
        notes: list[LedgerEntry] = []
        found = await survive(
            self._adapt(state, scope, notes), deadline=scope.deadline, grace_seconds=GRACE_SECONDS
        )
        if isinstance(found, Failure):
            return self._failed(found, state, scope, notes)
        spent = added(state["spent"], since=scope.started, tokens=_new_tokens(found))
        adapted: Adapted = {
            "key": found.adapter.key,
            "origin": found.origin,
            "seconds": spent["seconds"] - state["spent"]["seconds"],
            "trained_tokens": _new_tokens(found),
            "rests_on": _trained_on(found, state),
        }
        if found.origin != "trained":
            state = {**state, "cache": {**state["cache"], "adapter": "hit"}}
        event = "trained" if found.origin == "trained" else "reused"
        told = {name: value for name, value in adapted.items() if name != "rests_on"}
        detail = {**told, "steps": found.adapter.steps, "losses": list(found.adapter.losses)}
        return {
            "adapted": adapted,
            "cache": state["cache"],
            "decision": "generate",
            "attempt": "ttt",
            "spent": spent,
            "ledger": record(
                state, scope, [*notes, entry("ttt_adapt", event, since=scope.started, **detail)]
            ),
        }

    async def _adapt(
        self, state: RttcState, scope: RunScope, notes: list[LedgerEntry]
    ) -> AdapterLookup:
        """Return the adapter of the samples, resident, whatever it takes to get it."""
        examples = training_examples(state["samples"])
        if not examples:
            what = "only passages of documents" if state["samples"] else "no samples"
            raise AdaptationError(f"there are {what}, and an adapter learns solved questions")
        base = await self.trainer.base_fingerprint()
        key = adapter_key(base, examples, scope.settings.ttt, reuse_scope=scope.reuse_scope)
        if any(c["adapter"] == key for c in state["candidates"]):
            raise AdaptationError("the adapter of these samples was recalled and has answered")
        if (near := await self._near(base, state, scope, examples, notes)) is not None:
            return AdapterLookup(adapter=near, origin="near")
        await self._check_tokens(examples, scope)
        made: list[TrainedAdapter] = []

        async def train() -> TrainedAdapter:
            if not made:  # a cache that fails after the training does not cost a second one
                made.append(
                    await self.trainer.train(
                        key,
                        examples,
                        scope.settings.ttt,
                        on_step=lambda step: scope.emit({"event": "ttt_step", **asdict(step)}),
                        deadline=scope.deadline,
                    )
                )
            return made[0]

        if self.cache is None or not scope.settings.use_cache:
            return AdapterLookup(adapter=await train(), origin="trained")
        try:
            found = await self._kept(self.cache, key, base, train, scope, notes)
        except QueryStateCacheError as exc:  # a lost database costs the cache, not the arm
            notes.append(
                entry("ttt_adapt", "failed", since=scope.started, what="cache", error=str(exc))
            )
            return AdapterLookup(adapter=await train(), origin="trained")
        return found

    async def _kept(
        self,
        cache: QueryStateCache,
        key: str,
        base: str,
        train: Callable[[], Awaitable[TrainedAdapter]],
        scope: RunScope,
        notes: list[LedgerEntry],
    ) -> AdapterLookup:
        """Return the adapter from the cache, resident; one that is damaged is trained again."""
        while True:
            since = time.monotonic()
            found = await cache.get_or_train(
                key, base_fingerprint=base, train=train, deadline=scope.deadline
            )
            try:
                if not await self.trainer.is_resident(key):
                    await self.trainer.load(found.adapter)
                return found
            except UnusableAdapterError as exc:
                if found.origin == "trained":
                    raise
                notes.append(
                    entry("ttt_adapt", "failed", since=since, what="load adapter", error=str(exc))
                )
                await cache.discard_adapter(key)

    async def _near(
        self,
        base: str,
        state: RttcState,
        scope: RunScope,
        examples: Sequence[TrainingExample],
        notes: list[LedgerEntry],
    ) -> TrainedAdapter | None:
        """Return the adapter of a near query, resident, if it knows these samples already."""
        settings, since = scope.settings, time.monotonic()
        if self.cache is None or settings.reuse_loss == 0 or not _was_missed(state):
            return None
        request = recall_request(
            settings,
            vector=state["vector"],
            domain=state["task"]["domain"],
            base_fingerprint=base,
            adapter_similarity=settings.reuse_similarity,
        )
        try:
            found = await checked_adapter(self.cache, self.trainer, request, examples)
            if found is None:
                return None
            knows = found.loss < settings.reuse_loss
            if knows and not await self.trainer.is_resident(found.adapter.key):
                await self.trainer.load(found.adapter)
        except (AdaptationError, QueryStateCacheError) as exc:  # it costs the check, not the arm
            failed = {"what": "check a near adapter", "error": str(exc)}
            notes.append(entry("ttt_adapt", "failed", since=since, **failed))
            return None
        checked = {
            "key": found.adapter.key,
            "similarity": found.similarity,
            "loss": found.loss,
            "reuse_loss": settings.reuse_loss,
        }
        notes.append(entry("ttt_adapt", "checked", since=since, **checked))
        return found.adapter if knows else None

    async def _check_tokens(self, examples: Sequence[TrainingExample], scope: RunScope) -> None:
        """Refuse a training that would go through more tokens than the budget has left."""
        epoch = 0
        for example in examples:
            solved: ChatTurn = {"role": "assistant", "content": example.answer}
            epoch += await self.policy_model.count_tokens([*example.messages, solved])
        settings = scope.settings.ttt
        steps = settings.steps_of_epoch(len(examples))
        needed = epoch * settings.steps(steps) // steps
        if needed > scope.allowance.tokens:
            raise BudgetExceeded(
                f"training would take about {needed} tokens, {scope.allowance.tokens} are left of "
                f"budget_tokens={scope.settings.budget_tokens}; raise it, or lower k, ttt_epochs "
                "or ttt_min_steps"
            )

    def _refused(
        self, choice: Literal["skip", "accept"], state: RttcState, scope: RunScope
    ) -> AdaptUpdate:
        skipped = entry("ttt_adapt", "skipped", since=scope.started, arm="ttt", choice=choice)
        if not state["candidates"]:
            choice = "skip"  # there is nothing to accept yet, and the run owes an answer
        return {
            "tried": [*state["tried"], *refused(choice, "ttt")],
            "decision": "reward_judge",
            "ledger": record(state, scope, [skipped]),
        }

    def _failed(
        self, failure: Failure, state: RttcState, scope: RunScope, notes: list[LedgerEntry]
    ) -> AdaptUpdate:
        failed = entry("ttt_adapt", "failed", since=scope.started, arm="ttt", error=failure.reason)
        return {
            "tried": [*state["tried"], "ttt"],
            "decision": "reward_judge",
            "spent": added(state["spent"], since=scope.started),
            "ledger": record(state, scope, [*notes, failed]),
        }


def _was_missed(state: RttcState) -> bool:
    """Tell whether the cache answered in this run and had no adapter that was near enough."""
    asked = any(one["event"] == "recalled" for one in state["ledger"])
    return asked and state["cache"]["adapter"] == "miss"


def _trained_on(found: AdapterLookup, state: RttcState) -> list[str]:
    """Return the ids of the samples in hand that an adapter was trained on.

    That of a near query was trained on the samples of that one, which are not known here.
    """
    return [] if found.origin == "near" else [sample["id"] for sample in state["samples"]]


def _new_tokens(found: AdapterLookup) -> int:
    return found.adapter.trained_tokens if found.origin == "trained" else 0
