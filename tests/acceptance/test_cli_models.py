"""`rttc models`: what whoever takes a model is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rttc_graph.cli.app import main

QWEN = "qwen2.5-coder-0.5b-instruct"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation in which the model lies already."""
    monkeypatch.setenv("RTTC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "Qwen2.5-Coder-0.5B-Instruct").mkdir(parents=True)
    return tmp_path


def test_pull_tells_licence_and_unknown_maker_beside_the_folder(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", QWEN, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {QWEN: str(home / "models" / "Qwen2.5-Coder-0.5B-Instruct")}
    said = " ".join(printed.err.split())
    assert "Qwen/Qwen2.5-Coder-0.5B-Instruct, licence Apache-2.0" in said
    assert "whose names say nothing and whose maker is unknown" in said


def test_list_has_the_licence_of_each_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["gemma-3-270m"]["license"] == "Gemma Terms of Use"
    assert rows[QWEN]["here"]
    assert "maker is unknown" in rows[QWEN]["packer"]
