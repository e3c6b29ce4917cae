"""The knowledge bases do what every knowledge base must do."""

from __future__ import annotations

import pytest

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import Embedder
from rttc_graph.testing import (
    KnowledgeBaseContract,
    ManagedKnowledgeBaseContract,
    MemoryKnowledgeBase,
)


class TestMemoryKnowledgeBase(KnowledgeBaseContract, ManagedKnowledgeBaseContract):
    @pytest.fixture
    def knowledge_base(self) -> MemoryKnowledgeBase:
        return MemoryKnowledgeBase()


@pytest.mark.usefixtures("no_blocking_calls")
class TestPostgresKnowledgeBase(KnowledgeBaseContract, ManagedKnowledgeBaseContract):
    @pytest.fixture
    def knowledge_base(self, database: Database, embedder: Embedder) -> PostgresKnowledgeBase:
        return PostgresKnowledgeBase(database, embedder)
