"""What the page on operations says of backups: the package's own programs dump and restore."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from postgres_fixtures import NumberEmbedder

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.embedded_server.programs import Account, find_programs
from rttc_graph.integrations.postgres.migrate import migrate
from rttc_graph.integrations.postgres.samples.postgres_knowledge_base import PostgresKnowledgeBase
from rttc_graph.protocols import NewSample
from rttc_graph.samples.ingest import ingest

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SAMPLES = [NewSample(question=f"question {n}", answer=str(n), domain="shop") for n in range(5)]


def typed(program: str) -> list[str]:
    """Return the words behind a program of the embedded server, as the page has them."""
    (line,) = re.findall(rf'^\$ "\$BIN/{program}" (.*)$', PAGE.read_text(), re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize("has_tables", [False, True], ids=["empty", "migrated"])
def test_a_dump_comes_back_whole(
    database: Database, postgres_dsn: str, empty_dsn: str, tmp_path: Path, has_tables: bool
) -> None:
    stored = PostgresKnowledgeBase(database, NumberEmbedder())
    asyncio.run(ingest(SAMPLES, stored, NumberEmbedder()))
    programs = find_programs(Account.current()).root / "bin"
    steps = [("pg_dump", postgres_dsn), ("pg_restore", empty_dsn)]
    if has_tables:
        migrate(empty_dsn)
        steps.insert(1, ("psql", empty_dsn))
    for program, dsn in steps:
        words = [word.replace("postgresql://…", dsn) for word in typed(program)]
        done = subprocess.run(
            [programs / program, *words], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert migrate(empty_dsn) == []
    assert asyncio.run(looked_up(empty_dsn)) == ("shop", 5, ["3"])


async def looked_up(dsn: str) -> tuple[str, int, list[str]]:
    """Return the domain, its size, and the answer of the sample nearest to question 3."""
    restored = Database(dsn)
    try:
        knowledge_base = PostgresKnowledgeBase(restored, NumberEmbedder())
        (domain,) = await knowledge_base.stats(tenant="default")
        vector = (await NumberEmbedder().embed(["3"]))[0]
        found = await knowledge_base.search(vector, k=1, domain="shop", tenant="default")
        return domain.domain, domain.samples, [sample["answer"] for sample in found.samples]
    finally:
        await asyncio.to_thread(restored.close)
