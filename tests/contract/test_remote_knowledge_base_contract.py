"""A knowledge base behind HTTP does what every knowledge base must do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from http_servers import served

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.samples.stored_embedder import StoredEmbedder
from rttc_graph.integrations.remote.remote_knowledge_base import RemoteKnowledgeBase
from rttc_graph.protocols import Embedder
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.testing import KnowledgeBaseContract, ManagedKnowledgeBaseContract


class TestRemoteKnowledgeBase(KnowledgeBaseContract, ManagedKnowledgeBaseContract):
    @pytest.fixture
    def url(self, database: Database, embedder: Embedder) -> Iterator[str]:
        stored = StoredEmbedder(database, embedder)
        served_parts = ServedParts(
            knowledge_base=PostgresKnowledgeBase(database, stored), embedder=stored
        )
        with served(create_app(served_parts)) as url:
            yield url

    @pytest.fixture
    async def knowledge_base(
        self, url: str, embedder: Embedder
    ) -> AsyncIterator[RemoteKnowledgeBase]:
        async with RemoteKnowledgeBase(url, embedder) as remote:
            yield remote
