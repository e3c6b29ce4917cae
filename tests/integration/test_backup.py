"""What the page on operations says of backups: the package's own programs dump and restore."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from asking_children import (
    SETTINGS,
    ask_until_told,
    asked_by,
    fill,
    graph_over,
    question,
    told_to_end,
)
from graph_runs import failures
from postgres_children import Child
from postgres_fixtures import NumberEmbedder

from rttc_graph.errors import BackendError
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.database_session import DatabaseSession
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
    steps = [("pg_dump", postgres_dsn), ("pg_restore", empty_dsn)]
    if has_tables:
        migrate(empty_dsn)
        steps.insert(1, ("psql", empty_dsn))
    for program, dsn in steps:
        run_program(program, dsn, tmp_path)
    assert migrate(empty_dsn) == []
    assert asyncio.run(looked_up(empty_dsn)) == ("shop", 5, ["3"])


def run_program(program: str, dsn: str, folder: Path) -> None:
    """Run a program of the embedded server as the page has it."""
    words = [word.replace("postgresql://…", dsn) for word in typed(program)]
    programs = find_programs(Account.current()).root / "bin"
    done = subprocess.run(
        [programs / program, *words], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_a_dump_of_a_server_at_work_answers_as_it_did(
    postgres_dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    """Samples, states, adapters and runs of one moment, while another process goes on asking."""
    fill(postgres_dsn, 20)
    server = Child(ask_until_told, postgres_dsn)
    before = asked_by(server, more=4)
    run_program("pg_dump", postgres_dsn, tmp_path)
    asked_by(server, more=2)
    asked = told_to_end(server)
    assert [failed for _, _, failed in asked if failed] == []

    run_program("pg_restore", empty_dsn, tmp_path)
    assert migrate(empty_dsn) == []
    restored = Database(empty_dsn)
    try:
        known = asyncio.run(restored.execute_work("count", runs, error=BackendError))
        assert len(before) <= known < len(asked)
        graph = graph_over(restored)
        again = asyncio.run(graph.ainvoke(question(0), context=SETTINGS))
        new = asyncio.run(graph.ainvoke(question(19), context=SETTINGS))
    finally:
        restored.close()
    assert (again["answer"], again["cache"]) == ("ttt", {"samples": "hit", "adapter": "hit"})
    assert new["answer"] == "ttt"  # whether the server had come so far before the dump or not
    assert failures([*again["ledger"], *new["ledger"]]) == []


def runs(session: DatabaseSession) -> int:
    (number,) = session.connection.execute("select count(*) from rttc_run").fetchone() or (0,)
    return int(number)


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
