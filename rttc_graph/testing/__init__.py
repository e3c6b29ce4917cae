"""For tests of graphs and backends: parts in memory, and what every backend must do.

Subclass a suite in a backend's tests and define the fixtures that it asks for. Their
assertions explain themselves after `pytest.register_assert_rewrite("rttc_graph.testing.inputs",
"rttc_graph.testing.knowledge_base_contract", "rttc_graph.testing.query_state_cache_contract")` in
a `conftest.py`.
"""

from __future__ import annotations

from rttc_graph.testing.inputs import at_angle, new_sample, trained_adapter
from rttc_graph.testing.knowledge_base_contract import KnowledgeBaseContract
from rttc_graph.testing.memory_cache import MemoryQueryStateCache
from rttc_graph.testing.memory_parts import MemoryKnowledgeBase, MemoryLedgerStore
from rttc_graph.testing.query_state_cache_contract import QueryStateCacheContract

__all__ = (
    "KnowledgeBaseContract",
    "MemoryKnowledgeBase",
    "MemoryLedgerStore",
    "MemoryQueryStateCache",
    "QueryStateCacheContract",
    "at_angle",
    "new_sample",
    "trained_adapter",
)
