"""What there is of memory, and how much of it the embedded server takes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rttc_graph.integrations.postgres.embedded_server.server_process import server_memory_mb
from rttc_graph.support.machine_memory import total_machine_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max\n", 24_000 * 1024),
        ("6000\n", 6000),
        (f"{64 * GIB}\n", 24_000 * 1024),
        (None, 24_576_000),
    ],
    ids=["no-limit", "a-container", "more-than-there-is", "no-container"],
)
def test_all_memory_is_that_of_the_container(
    limit: str | None, expected: int, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       24000 kB\nMemAvailable:    9000 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    if limit is not None:
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    assert total_machine_bytes(tmp_path) == expected


def test_where_nobody_says_it_is_infinite(tmp_path: Path) -> None:
    assert total_machine_bytes(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("total", "expected"),
    [(math.inf, 256), (GIB, 256), (8 * GIB, 1024), (24 * GIB, 3072), (256 * GIB, 4096)],
)
def test_the_server_takes_an_eighth_within_bounds(total: float, expected: int) -> None:
    assert server_memory_mb(total) == expected
