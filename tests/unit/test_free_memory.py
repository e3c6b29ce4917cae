"""What is read as free memory, from files as Linux has them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rttc_graph.integrations.lora.free_memory import free_bytes

CPU = torch.device("cpu")
MEMINFO = "MemTotal:       24000 kB\nMemFree:         100 kB\nMemAvailable:    9000 kB\n"


def root_with(folder: Path, **group: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc/meminfo").write_text(MEMINFO)
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in group.items():
        (folder / "sys/fs/cgroup" / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        pytest.param({}, 9000 * 1024, id="no-container"),
        pytest.param({"memory_max": "max\n", "memory_current": "5\n"}, 9000 * 1024, id="no-limit"),
        pytest.param({"memory_max": "6000\n", "memory_current": "5000\n"}, 1000, id="a-limit"),
        pytest.param(
            {
                "memory_max": "6000\n",
                "memory_current": "5000\n",
                "memory_stat": "anon 7\ninactive_file 2000\n",
            },
            3000,
            id="files-that-could-be-dropped-count-as-free",
        ),
    ],
)
def test_free_is_what_machine_and_container_leave(
    group: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert free_bytes(CPU, root=root_with(tmp_path, **group)) == expected


def test_where_nobody_says_there_is_no_limit(tmp_path: Path) -> None:
    assert free_bytes(CPU, root=tmp_path) == math.inf


def test_this_machine_has_some() -> None:
    assert free_bytes(CPU) > 2**20
