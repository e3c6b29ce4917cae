"""What is kept of a run that ends: its query state, its adapter and its ledger.

The answer is in hand when this begins, so nothing that fails here costs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rttc_graph.errors import NoAnswerError
from rttc_graph.protocols import LedgerStore, QueryState, QueryStateCache, RunRecord
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import added
from rttc_graph.run.ledger import Notes
from rttc_graph.run.outcome import Outcome, trace_metadata
from rttc_graph.run.recalling import training_fingerprint
from rttc_graph.run.scope import RunScope
from rttc_graph.state import Candidate, RttcState

_STORE_GRACE_SECONDS = GRACE_SECONDS / 2
"""Time past the deadline in which a run with an answer may store what it learnt; short enough to
return the answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Closes runs: tags, remembers, discards and records, where there is something to do so."""

    cache: QueryStateCache | None = None
    ledger_store: LedgerStore | None = None

    async def close(
        self,
        state: RttcState,
        scope: RunScope,
        best: Candidate,
        outcome: Outcome,
        notes: Notes,
    ) -> None:
        """Remember the query's state and store the ledger.

        Args:
            state: What the step that ends the run found, with its candidates judged.
            scope: The scope of that step.
            best: The answer.
            outcome: What the run says of it.
            notes: Entries of this step; they are stored too, and get what happens here.
        """
        tokens = state["spent"]["tokens"]
        scope.tag(trace_metadata(outcome, best, scope.settings, tokens=tokens))
        if self.cache and scope.settings.use_cache and state["samples"]:
            await _remember(self.cache, state, scope, best, notes)
        if self.ledger_store:
            stored = await survive(
                self.ledger_store.append(_run_record(state, scope, best, outcome, notes)),
                deadline=scope.deadline,
                grace_seconds=_STORE_GRACE_SECONDS,
            )
            if isinstance(stored, Failure):
                notes.add_failure(stored, since=scope.started, what="store the ledger")


def no_answer(state: RttcState, notes: Notes) -> NoAnswerError:
    """Return the error of a run that ends without any candidate, with all that failed in it."""
    errors = [
        f"{e['detail'].get('arm') or e['detail'].get('what') or e['node']}: {e['detail']['error']}"
        for e in state["ledger"]
        if e["event"] == "failed"
    ]
    reason = "; ".join(errors) or "nothing was tried"
    ledger = [*state["ledger"], *notes.entries]
    return NoAnswerError(f"no arm produced an answer ({reason})", ledger=ledger)


async def _remember(
    cache: QueryStateCache, state: RttcState, scope: RunScope, best: Candidate, notes: Notes
) -> None:
    """Keep the adapter that gave the best answer, drop one that did not raise the reward."""
    rejected = _rejected_adapter(state, best)
    stored = await survive(
        _store_state(cache, _query_state(state, scope, best, rejected), rejected),
        deadline=scope.deadline,
        grace_seconds=_STORE_GRACE_SECONDS,
    )
    if isinstance(stored, Failure):
        notes.add_failure(stored, since=scope.started, what="remember")
        return
    notes.add("remembered", since=scope.started, adapter_key=best["adapter"])
    if rejected is not None:
        notes.add("discarded", since=scope.started, adapter_key=rejected)


async def _store_state(cache: QueryStateCache, kept: QueryState, rejected: str | None) -> None:
    await cache.remember(kept)
    if rejected is not None:
        await cache.discard_adapter(rejected)


def _query_state(
    state: RttcState, scope: RunScope, best: Candidate, rejected: str | None
) -> QueryState:
    return QueryState(
        query=state["task"]["query"],
        vector=state["vector"],
        domain=state["task"]["domain"],
        tenant=scope.settings.tenant,
        k=scope.settings.k,
        choice=scope.settings.samples_choice,
        samples=state["samples"],
        revision=state["revision"] or 0,
        adapter=best["adapter"],
        training_fingerprint=training_fingerprint(scope.settings, state),
        reward=best["reward"],
        rejected_adapter=rejected or state.get("rejected_adapter"),
    )


def _rejected_adapter(state: RttcState, best: Candidate) -> str | None:
    """Return the adapter that this run trained, if another candidate is at least as good."""
    adapted = state.get("adapted")
    if adapted is None or adapted["origin"] != "trained" or best["reward"] is None:
        return None
    answered = any(
        c["adapter"] == adapted["key"] and c["reward"] is not None for c in state["candidates"]
    )
    return adapted["key"] if answered and best["adapter"] != adapted["key"] else None


def _run_record(
    state: RttcState, scope: RunScope, best: Candidate, outcome: Outcome, notes: Notes
) -> RunRecord:
    settings = scope.settings
    return RunRecord(
        tenant=settings.tenant,
        domain=state["task"]["domain"],
        query=state["task"]["query"],
        policy=settings.policy,
        candidate=best,
        **outcome,
        seconds=added(state["spent"], since=scope.started)["seconds"],
        tokens=state["spent"]["tokens"],
        entries=[*state["ledger"], *notes.entries],
    )
