"""How much of its machine's memory the embedded server takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rttc_graph.integrations.postgres.embedded_server.server_memory import (
    machine_bytes,
    server_memory_mb,
)

GIB = 2**30
HERE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", HERE), ("6000\n", 6000), (f"{2 * HERE}\n", HERE), (None, HERE)],
    ids=["no-limit", "a-container", "more-than-there-is", "no-container"],
)
def test_all_memory_is_that_of_the_container(
    limit: str | None, expected: int, tmp_path: Path
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert machine_bytes(tmp_path / "memory.max") == expected


@pytest.mark.parametrize(
    ("total", "expected"),
    [(GIB, 256), (8 * GIB, 1024), (24 * GIB, 3072), (256 * GIB, 4096)],
)
def test_the_server_takes_an_eighth_within_bounds(total: int, expected: int) -> None:
    assert server_memory_mb(total) == expected
