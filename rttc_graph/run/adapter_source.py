"""How a run comes by the adapter of its samples: a near query's, a stored one, or a training."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

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
    ContinuingTrainer,
    PolicyModel,
    QueryStateCache,
    StandingAdapters,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
    parameters_of,
    training_flops,
)
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import augmented_examples
from rttc_graph.run.recalling import checked_adapter, not_loaded, recall_request
from rttc_graph.run.scope import RunScope
from rttc_graph.settings import TttSettings
from rttc_graph.state import ChatTurn, RttcState


class NoHelpError(AdaptationError):
    """An adapter that was trained before for the same query and samples, in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedAdapter:
    """The adapter that a run wants, whether or not it is there."""

    key: str
    base: str
    """Fingerprint of the base model."""
    examples: Sequence[TrainingExample]
    """Samples to learn, at least one."""
    start: TrainedAdapter | None = None
    """Adapter of the domain, which the training begins with; `None` to begin with nothing."""


class _Told(TypedDict):
    on_step: Callable[[TrainStep], None]
    deadline: float | None


class OneTraining:
    """A training that runs at most once: a cache that fails behind it costs no second one.

    Args:
        trainer: Trains.
        wanted: The adapter to train.
        scope: Gives the settings and the deadline, and is told of each step.
    """

    def __init__(self, trainer: AdapterTrainer, wanted: WantedAdapter, scope: RunScope) -> None:
        self._trainer = trainer
        self._wanted = wanted
        self._scope = scope
        self._trained: TrainedAdapter | None = None

    async def __call__(self) -> TrainedAdapter:
        """Return the adapter, resident; train it at the first call.

        Raises:
            BudgetExceeded: The deadline passed before the training ended.
            AdaptationError: The training failed.
        """
        if self._trained is None:
            self._trained = await self._train(self._wanted.start)
        return self._trained

    async def _train(self, start: TrainedAdapter | None) -> TrainedAdapter:
        trainer = self._trainer
        given = self._wanted.key, self._wanted.examples, self._scope.settings.ttt
        told: _Told = {
            "on_step": lambda step: self._scope.emit({"event": "ttt_step", **asdict(step)}),
            "deadline": self._scope.deadline,
        }
        if start is not None and isinstance(trainer, ContinuingTrainer):
            return await trainer.train_on(start, *given, **told)
        return await trainer.train(*given, **told)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """The ways to an adapter, tried from cheap to dear."""

    policy_model: PolicyModel
    trainer: AdapterTrainer
    cache: QueryStateCache | None = None
    standing_adapters: StandingAdapters | None = None

    async def get(self, state: RttcState, scope: RunScope, notes: Notes) -> AdapterLookup:
        """Return an adapter for the samples in hand, resident.

        Args:
            state: With the samples.
            scope: Scope of the step that needs the adapter.
            notes: Entries of that step; what was tried is added, also where nothing comes of it.

        Raises:
            BudgetExceeded: A training would take more tokens, or took more seconds, than are left.
            NoHelpError: This training did not raise the reward before, and there is an answer.
            AdaptationError: There are no samples, their adapter has answered already, or the
                training failed.
        """
        wanted = await self._wanted(state, scope)
        near = await self._near(wanted, state, scope, notes)
        if near is not None:
            return AdapterLookup(adapter=near, origin="near")
        await self._check_tokens(wanted.examples, scope)
        training = OneTraining(self.trainer, wanted, scope)
        if self.cache is not None and scope.settings.use_cache:
            try:
                return await self._kept(self.cache, wanted, training, scope, notes)
            except QueryStateCacheError as exc:  # a lost database costs the cache, not the arm
                notes.add_failure(exc, since=scope.started, what="cache")
        return AdapterLookup(adapter=await training(), origin="trained")

    async def _wanted(self, state: RttcState, scope: RunScope) -> WantedAdapter:
        settings = scope.settings
        examples = augmented_examples(
            state["task"]["query"],
            state["samples"],
            settings.prompts,
            kinds=settings.ttt_augment,
            each=settings.ttt_views,
        )
        if not examples:
            what = "only passages of documents" if state["samples"] else "no samples"
            raise AdaptationError(f"there are {what}, and an adapter learns solved questions")
        base = await self.trainer.base_fingerprint()
        start = await self._standing(state)
        whole = base if start is None else f"{base} {start.key}"
        key = adapter_key(whole, examples, scope.settings.ttt, reuse_scope=scope.reuse_scope)
        if any(c["adapter"] == key for c in state["candidates"]):
            raise AdaptationError("the adapter of these samples was recalled and has answered")
        if state["candidates"] and key == state.get("rejected_adapter"):
            raise NoHelpError("the adapter for this query did not help before")
        return WantedAdapter(key=key, base=base, examples=examples, start=start)

    async def _standing(self, state: RttcState) -> TrainedAdapter | None:
        """Return the adapter of the domain, which this one goes on from; `None` if it cannot.

        Raises:
            AdaptationError: It is gone, and the plain model's adapter would be of another model.
            BackendError: It cannot be read.
        """
        key = state.get("standing")
        if key is None or not isinstance(self.trainer, ContinuingTrainer):
            return None
        known = self.standing_adapters
        start = None if known is None else await known.stored(key)
        if start is None:
            raise AdaptationError(
                f"the adapter {key!r} of the domain {state['task']['domain']!r} is not stored, so "
                "none can be trained on top of it: take it away (rttc improve --undo DOMAIN)"
            )
        return start

    async def _kept(
        self,
        cache: QueryStateCache,
        wanted: WantedAdapter,
        training: OneTraining,
        scope: RunScope,
        notes: Notes,
    ) -> AdapterLookup:
        """Return the adapter from the cache, resident; one that is damaged is trained again."""
        while True:
            since = time.monotonic()
            found = await cache.get_or_train(
                wanted.key, base_fingerprint=wanted.base, train=training, deadline=scope.deadline
            )
            try:
                await self.trainer.load(found.adapter)
                return found
            except UnusableAdapterError as exc:
                if found.origin == "trained":
                    raise
                notes.add_failure(exc, since=since, what="load adapter")
                await cache.discard_adapter(wanted.key)

    async def _near(
        self, wanted: WantedAdapter, state: RttcState, scope: RunScope, notes: Notes
    ) -> TrainedAdapter | None:
        """Return the adapter of a near query, resident, if it knows these samples already."""
        settings, since = scope.settings, time.monotonic()
        if self.cache is None or settings.reuse_loss == 0 or not _was_missed(state):
            return None
        request = recall_request(
            settings,
            state,
            vector=state["vector"],
            base_fingerprint=wanted.base,
            adapter_similarity=settings.reuse_similarity,
        )
        try:
            found = await checked_adapter(
                self.cache, self.trainer, request, wanted.examples, without=not_loaded(state)
            )
            if found is None:
                return None
            knows = found.loss < settings.reuse_loss
            if knows:
                await self.trainer.load(found.adapter)
        except (AdaptationError, QueryStateCacheError) as exc:  # it costs the check, not the arm
            notes.add_failure(exc, since=since, what="check a near adapter")
            return None
        notes.add(
            "checked",
            since=since,
            key=found.adapter.key,
            similarity=found.similarity,
            loss=found.loss,
            reuse_loss=settings.reuse_loss,
        )
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
        left = scope.allowance.flops
        parameters = None if left is None else await parameters_of(self.policy_model)
        flops = training_flops(parameters, needed, layers=settings.layers)
        if left is not None and flops is not None and flops > left:
            raise BudgetExceeded(
                f"training would take about {flops:g} operations, {left:g} are left of "
                f"budget_flops={scope.settings.budget_flops:g}; raise it, or lower k, ttt_epochs, "
                "ttt_min_steps or ttt_layers"
            )


def _was_missed(state: RttcState) -> bool:
    """Tell whether the cache answered in this run and had no adapter that was near enough."""
    asked = any(one["event"] == "recalled" for one in state["ledger"])
    return asked and state["cache"]["adapter"] == "miss"


def adapter_key(
    base_fingerprint: str,
    examples: Sequence[TrainingExample],
    settings: TttSettings,
    *,
    reuse_scope: str = "",
) -> str:
    """Return the key of the adapter that this training makes, 64 hexadecimal characters.

    The order of the examples counts, since it changes the floating-point sums of the training.

    Args:
        base_fingerprint: Digest of the base model.
        examples: What the adapter learns, prompts included.
        settings: How it learns, seed included.
        reuse_scope: Among whom the adapter is shared. In the key, so that nobody outside can find
            out that it is there; the empty one leaves keys as they were before there were scopes.
    """
    made_from: dict[str, object] = {
        "base": base_fingerprint,
        "settings": settings.fingerprint(),
        "examples": [{"messages": e.messages, "answer": e.answer} for e in examples],
    }
    if reuse_scope:
        made_from["reuse_scope"] = reuse_scope
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
