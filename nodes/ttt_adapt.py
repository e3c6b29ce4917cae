"""`ttt_adapt`: gets the LoRA adapter of the samples in hand, or says why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict

from rttc_graph.protocols import (
    AdapterLookup,
    AdapterTrainer,
    PolicyModel,
    QueryStateCache,
    StandingAdapters,
    parameters_of,
    training_flops,
)
from rttc_graph.run.adapter_source import AdapterSource, NoHelpError
from rttc_graph.run.ask_person import ask_person, refused
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import Notes, record
from rttc_graph.run.scope import RunScope
from rttc_graph.state import (
    Adapted,
    Attempt,
    CacheReport,
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
    standing_adapters: StandingAdapters | None = None

    async def __call__(self, state: RttcState, scope: RunScope) -> AdaptUpdate:
        """Leave the adapter in `adapted` for `generate`, or let `reward_judge` decide what next.

        Raises:
            langgraph.errors.GraphInterrupt: A person is to be asked first.
        """
        notes = Notes("ttt_adapt")
        if scope.settings.ask_before_training:
            choice = ask_person(state).choice
            if choice != "train":
                return _refused(choice, state, scope, notes)
        source = AdapterSource(
            policy_model=self.policy_model,
            trainer=self.trainer,
            cache=self.cache,
            standing_adapters=self.standing_adapters,
        )
        adapter = await survive(
            source.get(state, scope, notes), deadline=scope.deadline, grace_seconds=GRACE_SECONDS
        )
        if isinstance(adapter, Failure):
            return _failed(adapter, state, scope, notes)
        parameters = await parameters_of(self.policy_model)
        return _adapted(adapter, parameters, state, scope, notes)


def _adapted(
    found: AdapterLookup, parameters: int | None, state: RttcState, scope: RunScope, notes: Notes
) -> AdaptUpdate:
    is_new = found.origin == "trained"
    tokens = found.adapter.trained_tokens if is_new else 0
    flops = training_flops(parameters, tokens, layers=scope.settings.ttt.layers) if tokens else 0.0
    spent = added(state["spent"], since=scope.started, tokens=tokens, flops=flops)
    adapted: Adapted = {
        "key": found.adapter.key,
        "origin": found.origin,
        "seconds": spent["seconds"] - state["spent"]["seconds"],
        "trained_tokens": tokens,
        "flops": flops,
        "rests_on": _trained_on(found, state),
    }
    cache: CacheReport = state["cache"] if is_new else {**state["cache"], "adapter": "hit"}
    told = {name: value for name, value in adapted.items() if name != "rests_on"}
    detail = {**told, "steps": found.adapter.steps, "losses": list(found.adapter.losses)}
    notes.add("trained" if is_new else "reused", since=scope.started, **detail)
    return {
        "adapted": adapted,
        "cache": cache,
        "decision": "generate",
        "attempt": "ttt",
        "spent": spent,
        "ledger": record(state, scope, notes.entries),
    }


def _refused(
    choice: Literal["skip", "accept"], state: RttcState, scope: RunScope, notes: Notes
) -> AdaptUpdate:
    notes.add("skipped", since=scope.started, arm="ttt", choice=choice)
    if not state["candidates"]:
        choice = "skip"  # there is nothing to accept yet, and the run owes an answer
    return {
        "tried": [*state["tried"], *refused(choice, "ttt")],
        "decision": "reward_judge",
        "ledger": record(state, scope, notes.entries),
    }


def _failed(failure: Failure, state: RttcState, scope: RunScope, notes: Notes) -> AdaptUpdate:
    if isinstance(failure.error, NoHelpError):
        notes.add("skipped", since=scope.started, arm="ttt", reason=str(failure.error))
    else:
        notes.add_failure(failure, since=scope.started, arm="ttt")
    return {
        "tried": [*state["tried"], "ttt"],
        "decision": "reward_judge",
        "spent": added(state["spent"], since=scope.started),
        "ledger": record(state, scope, notes.entries),
    }


def _trained_on(found: AdapterLookup, state: RttcState) -> list[str]:
    """Return the ids of the samples in hand that an adapter was trained on.

    That of a near query was trained on the samples of that one, which are not known here.
    """
    return [] if found.origin == "near" else [sample["id"] for sample in state["samples"]]
