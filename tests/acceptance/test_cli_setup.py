"""What helps to set an installation up: init, doctor, completion."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from installations import REPOSITORY, Installation
from openai_server import openai_server

from rttc_graph.cli.app import main
from rttc_graph.installation.config import InstallationConfig, load_config

SETTING = re.compile(r"^#(?=[\w\[])", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation) -> Path:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_every_setting_with_its_default_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = load_config().model_dump()
    assert main(["init"]) == 0
    text = (tmp_path / "rttc.toml").read_text(encoding="utf-8")

    assert load_config().model_dump() == before
    assert tomllib.loads(text) == {}
    (tmp_path / "rttc.toml").write_text(SETTING.sub("", text), encoding="utf-8")
    uncommented = load_config().model_dump()
    names = InstallationConfig.model_fields.keys() - {"domains"}
    assert {name for name in names if uncommented[name] != before[name]} == set()
    shown = r"^# ?{0}( =| has)|^#\[{0}\]"
    missing = {n for n in names if not re.search(shown.format(n), text, re.MULTILINE)}
    assert missing == {"reward_api_key"}  # a key is no matter of a file
    assert max(map(len, text.splitlines())) <= 100


def test_init_leaves_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rttc.toml").write_text("k = 3\n")
    assert main(["init"]) == 2
    assert "'rttc.toml' is there already and is left as it is" in capsys.readouterr().err
    assert (tmp_path / "rttc.toml").read_text() == "k = 3\n"
    assert main(["init", "other.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": "other.toml"}


def checks(capsys: pytest.CaptureFixture[str], *flags: str, code: int = 0) -> dict[str, Any]:
    assert main([*flags, "doctor", "--json"]) == code
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_doctor_finds_an_installation_that_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checks(capsys)
    assert {one["outcome"] for one in found.values()} <= {"ok", "warn"}
    assert found["database"]["outcome"] == "ok"
    assert re.fullmatch(
        r"cpu, [\d.]+ GiB free: up to 16 rows at once, [\d.]+ GiB of adapters, "
        r"2 GiB of trainings, 1 in one pass",
        found["device"]["said"],
    )
    assert found["samples"]["way_out"] == "rttc kb ingest FILE --domain NAME"
    assert found["calibration"]["way_out"] == "rttc calibrate QUESTIONS.jsonl --save"
    assert [one["said"] for name, one in found.items() if name.startswith("model ")] == [
        "on this machine"
    ] * 2
    (folder / "solved.jsonl").write_text('{"question": "a", "answer": "b", "domain": "d"}\n')
    assert main(["kb", "ingest", "solved.jsonl"]) == 0
    capsys.readouterr()
    assert checks(capsys)["samples"]["said"] == "1 in 1 domain"


@pytest.mark.parametrize(
    ("flags", "name", "words"),
    [
        (["--model", "openai:gpt-5"], "model openai:gpt-5", "export OPENAI_API_KEY="),
        (["--model", "http://127.0.0.1:9/v1#m"], "model", "gave no list of models"),
        (["--model", "http://a:b@h/v1"], "model", "RTTC_MODEL_API_KEY"),
        (["--database-url", "postgresql://127.0.0.1:9/x"], "database", "127.0.0.1"),
    ],
)
def test_doctor_fails_with_the_way_out(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    name: str,
    words: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = checks(capsys, *flags, code=1)
    assert found[name]["outcome"] == "fail"
    assert words in found[name]["said"] + found[name]["way_out"]
    assert main([*flags, "doctor"]) == 1
    assert "fail  " in capsys.readouterr().out


def test_doctor_warns_of_what_is_not_there_yet(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checks(capsys, "--model", "gemma-3-270m")
    assert found["model gemma-3-270m"]["way_out"] == "rttc models pull gemma-3-270m"
    with openai_server() as server:
        found = checks(capsys, "--model", f"{server.url}#other")
        assert (
            "lists no model 'other', but small-chat" in found[f"model {server.url}#other"]["said"]
        )
        found = checks(capsys, "--model", server.url)
        assert found[f"model {server.url}"]["said"] == "reachable, serves small-chat"


def test_doctor_says_what_is_wrong_with_the_settings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rttc.toml").write_text("kay = 3\n")
    [check] = checks(capsys, code=1).values()
    assert check["name"] == "settings"
    assert "unknown setting 'kay'" in check["said"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"complete_{shell}" in script
    if (program := shutil.which(shell)) is not None:
        checked = subprocess.run([program, "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0


def test_options_are_completed() -> None:
    env = {"_RTTC_COMPLETE": "complete_bash", "COMP_WORDS": "rttc ask --po", "COMP_CWORD": "2"}
    env |= {"PYTHONPATH": str(REPOSITORY)}
    program = "import sys; sys.argv = ['rttc']; from rttc_graph.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["--policy"]


def test_ctrl_c_in_a_job_says_how_it_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "solved.jsonl").write_text('{"question": "a", "answer": "b", "domain": "d"}\n')

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("rttc_graph.cli.knowledge.kb_ingest.ingest", interrupted)
    assert main(["kb", "ingest", "solved.jsonl"]) == 130
    said = "interrupted: rows stored so far are kept: run the same command again"
    assert said in capsys.readouterr().err
    monkeypatch.setattr("rttc_graph.jobs.train_reward.draw_candidates", interrupted)
    assert main(["reward", "draw", "solved.jsonl", "--out", "c.jsonl"]) == 130
    assert "interrupted: candidates so far are kept in c.jsonl" in capsys.readouterr().err
