"""The query-state caches do what every query-state cache must do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import Embedder
from rttc_graph.testing import (
    MemoryKnowledgeBase,
    MemoryQueryStateCache,
    QueryStateCacheContract,
)


class TestMemoryQueryStateCache(QueryStateCacheContract):
    @pytest.fixture
    def knowledge_base(self) -> MemoryKnowledgeBase:
        return MemoryKnowledgeBase()

    @pytest.fixture
    def open_cache(
        self, knowledge_base: MemoryKnowledgeBase
    ) -> Callable[..., MemoryQueryStateCache]:
        return partial(MemoryQueryStateCache, knowledge_base)


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresQueryStateCache(QueryStateCacheContract):
    @pytest.fixture
    def knowledge_base(self, database: Database, embedder: Embedder) -> PostgresKnowledgeBase:
        return PostgresKnowledgeBase(database, embedder)

    @pytest.fixture
    def open_cache(self, database: Database) -> Callable[..., PostgresQueryStateCache]:
        return partial(PostgresQueryStateCache, database)
