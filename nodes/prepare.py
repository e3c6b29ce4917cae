"""`prepare`: takes the question out of the input and resets what an earlier run left behind."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import TypedDict

from rttc_graph.budget import NOTHING_SPENT
from rttc_graph.errors import ConfigurationError
from rttc_graph.policies import decide
from rttc_graph.prompts import split_conversation
from rttc_graph.scope import RunScope
from rttc_graph.state import (
    Adapted,
    Attempt,
    CacheReport,
    Candidate,
    Decision,
    LedgerEntry,
    RttcState,
    Sample,
    Spent,
    Task,
)

MAX_QUERY_CHARACTERS = 100_000
"""About 25,000 tokens: longer than the context of every model this is meant to run in process."""


class PrepareUpdate(TypedDict):
    """The state of a run that has just begun."""

    task: Task
    vector: list[float]
    samples: list[Sample]
    retrieved: bool
    revision: int | None
    adapted: Adapted | None
    tried: list[Attempt]
    attempt: Attempt
    decision: Decision
    candidates: list[Candidate]
    ledger: list[LedgerEntry]
    spent: Spent
    cache: CacheReport
    answer: str
    reward: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Starts a run."""

    arms: frozenset[Attempt]

    async def __call__(self, state: RttcState, scope: RunScope) -> PrepareUpdate:
        """Return a fresh state with the first decision in it.

        Raises:
            ConfigurationError: The input has no question, or the policy needs an arm that this
                graph was built without.
        """
        policy = scope.settings.policy
        if policy in ("direct", "rag", "ttt") and policy not in self.arms:
            raise ConfigurationError(
                f"policy={policy!r} needs an arm that this graph was built without; it has "
                f"{sorted(self.arms)}: give create_rttc_graph a knowledge base and embedder for "
                "rag, and a trainer as well for ttt"
            )
        choice = decide({}, scope.settings, arms=self.arms)
        return {
            "task": _task(state),
            "vector": [],
            "samples": [],
            "retrieved": False,
            "revision": None,
            "adapted": None,
            "tried": [],
            "attempt": choice.attempt,
            "decision": choice.decision,
            "candidates": [],
            "ledger": [],
            "spent": NOTHING_SPENT,
            "cache": {"samples": "miss", "adapter": "miss"},
            "answer": "",
            "reward": None,
            "seconds": 0.0,
        }


def _task(state: RttcState) -> Task:
    query, messages = state.get("query") or "", state.get("messages") or []
    from_messages = not query.strip()
    if from_messages:
        query, history = split_conversation(messages)
    elif messages and messages[-1].type == "human" and messages[-1].text == query:
        query, history = split_conversation(messages)  # a host that shares both keys
    else:
        history = []
    if not query.strip():
        raise ConfigurationError("the question is empty: give a 'query' with text in it")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ConfigurationError(
            f"the question has {len(query)} characters, the limit is {MAX_QUERY_CHARACTERS}: "
            "shorten it"
        )
    return {
        "query": query,
        "domain": state.get("domain") or None,
        "history": history,
        "from_messages": from_messages,
    }
