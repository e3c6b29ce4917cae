"""The server does what `/openapi.json` says, whatever is sent to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from http_servers import MemoryKeys, served
from scripted_parts import Parts, ScriptedEmbedder

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.protocols.api_keys import SCOPES
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.testing import MemoryKnowledgeBase

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
]


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
def test_schemathesis_finds_no_fault(tmp_path: Path, database: Database) -> None:
    keys = MemoryKeys()
    key = keys.add(*SCOPES)
    embedder = ScriptedEmbedder()
    knowledge_base = MemoryKnowledgeBase()
    parts = Parts().rewarding(direct=0.95).parts()
    ledger = parts["ledger_store"] = PostgresLedgerStore(database)
    served_parts = ServedParts(
        parts=parts,
        knowledge_base=knowledge_base,
        embedder=embedder,
        corrections=Corrections(
            ratings=PostgresRatingStore(database), knowledge_base=knowledge_base, embedder=embedder
        ),
        history=ledger,
    )
    with served(create_app(served_parts, keys=keys)) as url:
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
                *("--header", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS)),
                *("--phases", "fuzzing", "--max-examples", "5", "--seed", "1"),
                *("--no-color", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
