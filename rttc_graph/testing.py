"""For tests of graphs and backends: parts in memory, and what every backend must do.

Subclass a suite in a backend's tests and define the fixtures that it asks for. Their
assertions explain themselves after `pytest.register_assert_rewrite("rttc_graph.testing_inputs",
"rttc_graph.testing_knowledge_base", "rttc_graph.testing_query_state_cache")` in a `conftest.py`.
"""

from __future__ import annotations

from rttc_graph.testing_inputs import at_angle, new_sample, trained_adapter
from rttc_graph.testing_knowledge_base import KnowledgeBaseContract
from rttc_graph.testing_memory import MemoryKnowledgeBase, MemoryLedgerStore
from rttc_graph.testing_memory_cache import MemoryQueryStateCache
from rttc_graph.testing_query_state_cache import QueryStateCacheContract

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
