"""For tests of graphs and backends: parts in memory, and what every backend must do.

Subclass a suite in a backend's tests and define the fixtures that it asks for; only the suites
need pytest. Their assertions explain themselves after
`pytest.register_assert_rewrite(*rttc_graph.testing.REWRITTEN)` in a `conftest.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rttc_graph.testing.inputs import at_angle, candidate, new_sample, trained_adapter
from rttc_graph.testing.memory_cache import MemoryQueryStateCache
from rttc_graph.testing.memory_parts import MemoryKnowledgeBase, MemoryLedgerStore

if TYPE_CHECKING:
    from rttc_graph.testing.knowledge_base_contract import KnowledgeBaseContract
    from rttc_graph.testing.query_state_cache_contract import QueryStateCacheContract
    from rttc_graph.testing.reward_model_contract import RewardModelContract

__all__ = (
    "REWRITTEN",
    "KnowledgeBaseContract",
    "MemoryKnowledgeBase",
    "MemoryLedgerStore",
    "MemoryQueryStateCache",
    "QueryStateCacheContract",
    "RewardModelContract",
    "at_angle",
    "candidate",
    "new_sample",
    "trained_adapter",
)

_SUITES = {
    "KnowledgeBaseContract": "rttc_graph.testing.knowledge_base_contract",
    "QueryStateCacheContract": "rttc_graph.testing.query_state_cache_contract",
    "RewardModelContract": "rttc_graph.testing.reward_model_contract",
}

REWRITTEN = tuple(dict.fromkeys(_SUITES.values()))
"""Modules whose assertions pytest can explain."""


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for, since it needs pytest."""
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_SUITES[name]), name)
