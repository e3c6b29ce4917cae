"""Processes that fill a knowledge base or train an adapter, to be killed or raced."""

from __future__ import annotations

import asyncio
from pathlib import Path

from postgres_children import Pipe
from postgres_fixtures import NumberEmbedder

from rttc_graph.integrations.postgres.cache.postgres_query_state_cache import (
    PostgresQueryStateCache,
)
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.migrate import Migration, migrate
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import TrainedAdapter
from rttc_graph.testing import new_sample, trained_adapter


def ingest_batches(pipe: Pipe, dsn: str, batches: int, size: int) -> None:
    """Ingest batches of numbered samples, and say so before each."""

    async def run() -> None:
        embedder = NumberEmbedder()
        knowledge_base = PostgresKnowledgeBase(Database(dsn), embedder)
        for batch in range(batches):
            samples = [new_sample(number) for number in range(batch * size, (batch + 1) * size)]
            vectors = await embedder.embed([sample.question for sample in samples])
            pipe.send(batch)
            await knowledge_base.ingest(samples, vectors, tenant="tenant")

    asyncio.run(run())


def train_once(pipe: Pipe, dsn: str, log: Path, lease_seconds: float) -> None:
    """Ask for the adapter `key`; when it is to be trained here, wait for a word in between."""

    async def train() -> TrainedAdapter:
        with log.open("a") as file:
            file.write("trained\n")
        pipe.send("training")
        await asyncio.to_thread(pipe.recv)
        return trained_adapter()

    async def run() -> None:
        database = Database(dsn)
        cache = PostgresQueryStateCache(database, lease_seconds=lease_seconds)
        found = await cache.get_or_train("key", base_fingerprint="base", train=train)
        pipe.send(found.origin)
        database.close()

    asyncio.run(run())


def migrate_slowly(pipe: Pipe, dsn: str) -> None:
    """Migrate with a second file that takes a minute."""
    first = Migration("0001_first.sql", "create table first_table (x integer)")
    slow = Migration("0002_slow.sql", "create table slow_table (x integer); select pg_sleep(60)")
    pipe.send("started")
    migrate(dsn, migrations=[first, slow])
