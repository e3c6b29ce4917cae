"""What is read as free memory, from files as Linux has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rttc_graph.integrations.transformers.free_memory import (
    DeviceSizes,
    device_sizes,
    free_bytes,
    position_bytes,
    recorded_bytes,
)

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


def always(value: object) -> Callable[..., object]:
    return lambda *_: value  # pyright: ignore[reportUnknownLambdaType]


def segment(total: int, used: int, *, device: int = 0, pool: int = 0) -> dict[str, object]:
    return {
        "device": device,
        "segment_pool_id": (0, pool),
        "total_size": total,
        "allocated_size": used,
    }


def test_what_recorded_passes_keep_on_a_gpu_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = [
        segment(100, 60),  # what torch keeps for any pass
        segment(50, 10, pool=3),
        segment(8, 0, pool=4),
        segment(30, 0, device=1, pool=3),
    ]
    told: dict[str, object] = {
        "memory_snapshot": segments,
        "memory_reserved": 158,
        "memory_allocated": 70,
        "mem_get_info": (1000, 5000),
        "current_device": 0,
        "get_allocator_backend": "native",
    }
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, always(value))
    assert free_bytes(torch.device("cuda")) == free_bytes(torch.device("cuda", 0)) == 1040
    assert recorded_bytes(torch.device("cuda", 1)) == 30
    assert recorded_bytes(CPU) == 0
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", always("cudaMallocAsync"))
    assert recorded_bytes(torch.device("cuda")) == 0


GIB = 2**30
POSITION_8B = 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("kind", "free", "position", "rows", "positions", "adapters", "trainings"),
    [
        pytest.param("cpu", math.inf, 46_080, 16, 32_768, 512 * 2**20, 2 * GIB, id="cpu-roomy"),
        pytest.param("cpu", GIB, 46_080, 16, 5825, 128 * 2**20, 2 * GIB, id="cpu-tight"),
        pytest.param("cpu", 0.0, 46_080, 16, 2048, 16 * 2**20, 2 * GIB, id="cpu-full"),
        pytest.param(
            "cuda", 60 * GIB, POSITION_8B, 64, 122_880, 7.5 * GIB, 7.5 * GIB, id="8b-on-80-gb"
        ),
        pytest.param("cuda", 8 * GIB, POSITION_8B, 64, 16_384, GIB, 2 * GIB, id="8b-on-24-gb"),
        pytest.param(
            "mps", math.inf, 46_080, 16, 32_768, 512 * 2**20, 2 * GIB, id="unknown-memory"
        ),
    ],
)
def test_sizes_fit_the_device(
    kind: str,
    free: float,
    position: int,
    rows: int,
    positions: int,
    adapters: float,
    trainings: float,
) -> None:
    expected = DeviceSizes(
        rows=rows,
        positions=positions,
        adapter_bytes=int(adapters),
        training_bytes=int(trainings),
        device=kind,
    )
    assert device_sizes(kind, free=free, position=position) == expected


def test_keys_and_values_are_counted_by_the_configuration() -> None:
    llama = SimpleNamespace(
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_size=4096
    )
    assert position_bytes(llama, 2) == POSITION_8B
    plain = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    assert position_bytes(plain, 4) == 2 * 2 * 32 * 4
    assert position_bytes(SimpleNamespace(num_key_value_heads=[1, 2]), 4) == 0
