"""The script for a GPU, run on the CPU with models of ten thousand weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tools import gpu_training
from benchmarks.tools.gpu_training import ROWS, Bench, Tables, main
from rttc_graph.errors import ConfigurationError

SMALL = ("--device", "cpu", "--rounds", "1", "--rows", "2", "--new", "3", "--lengths")


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "lines.json"
    main([*SMALL, *arguments, "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def lines(found: dict[str, Any], table: str) -> dict[str, dict[str, Any]]:
    return {each["line"]: each for each in found["lines"] if each["table"] == table}


@pytest.mark.filterwarnings("ignore")  # of transformers' generate
def test_the_tables_have_all_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_training, "peer", _missing)
    found = run(tmp_path, "12", "20", "--shape", "tiny")
    out = capsys.readouterr().out
    trained = lines(found, "training")
    jobs = [f"8 x {tokens}, {queries} at once" for tokens in (12, 20) for queries in (1, 8)]
    assert list(trained) == [f"{job}, {how}" for how in ("as it is", "plain") for job in jobs]
    for job in jobs:  # on a CPU both are the plain pass
        assert trained[f"{job}, as it is"]["last loss"] == trained[f"{job}, plain"]["last loss"]
        line = rf"\| {job}, plain \|(?: [\d.]+ \|){{2}} \d\.\d{{4}} \| 0 \|"
        assert any(re.fullmatch(line, each) for each in out.splitlines())
    assert list(lines(found, "rows")) == [
        f"2, {who}"
        for who in ("of the base", "each with its own adapter", "by transformers' generate")
    ]
    assert all(each["tokens/s"] > 0 for each in lines(found, "rows").values())
    assert list(lines(found, "once")) == ["load of the model", "load of a stored adapter"]
    assert found["warnings"] == ["trl is not measured: no trl here"]


@pytest.mark.filterwarnings("ignore")
def test_a_model_at_hand_is_measured_in_spite_of_a_line_that_fails(
    tiny_model_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("CUDA error: no kernel\nis there")

    monkeypatch.setattr(gpu_training, "peer", _missing)
    monkeypatch.setattr(Bench, "rows", fails)
    found = run(tmp_path, "40", "--model", str(tiny_model_path))
    assert found["model"] == tiny_model_path.name
    rows = lines(found, "rows")
    assert rows["2, of the base"]["failed"].startswith("RuntimeError: CUDA error: no kernel")
    assert rows["2, by transformers' generate"]["tokens/s"] > 0
    assert "failed: RuntimeError: CUDA error: no kernel is there |" in capsys.readouterr().out
    assert len(lines(found, "training")) == 4


def test_when_the_time_is_over_no_line_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    tables = Tables({}, seconds=10.0, clock=lambda: now[0])
    tables.begin("rows", ROWS)
    tables.line("first", lambda: {"tokens/s": 12.0, "first time": 3.0})
    now[0] = 10.0
    tables.line("second", lambda: {"tokens/s": 12.0, "first time": 3.0})
    assert tables.is_over
    assert capsys.readouterr().out.splitlines() == [
        "",
        "| rows | tokens/s | first time |",
        "| --- | --- | --- |",
        "| first | 12 | 3 |",
        "| second | left out: there was no time for it |",
    ]


def test_a_long_job_is_repeated_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_training, "_ENOUGH_SECONDS", 0.0)
    done: list[str] = []
    Bench(tmp_path, "cpu", 3).timed(lambda: done.append("done"))
    assert done == ["done"] * 2


def _missing(module: str) -> Sequence[str]:
    del module
    raise ConfigurationError("no trl here")
