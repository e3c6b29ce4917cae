"""The embedder that a database has on record embeds only if the configured one is the same."""

from __future__ import annotations

import pytest
from postgres_fixtures import NumberEmbedder

from rttc_graph.errors import KnowledgeBaseError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.integrations.postgres.samples.stored_embedder import StoredEmbedder
from rttc_graph.testing import at_angle, new_sample


async def test_a_text_is_embedded_by_the_embedder_on_record_or_not_at_all(
    database: Database,
) -> None:
    right, wrong = NumberEmbedder(), NumberEmbedder(fingerprint="another")
    assert len(await StoredEmbedder(database, wrong).embed(["text 1"])) == 1  # nothing on record
    await PostgresKnowledgeBase(database, right).ingest(
        [new_sample(1)], [at_angle(1)], tenant="default"
    )
    assert len(await StoredEmbedder(database, right).embed(["text 1"])) == 1
    with pytest.raises(KnowledgeBaseError, match="holds vectors of"):
        await StoredEmbedder(database, wrong).embed(["text 1"])
