"""`rttc reward` from a file of solved questions to a reward model that is measured and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import encoder_folder, sentence_folder

from rttc_graph.cli.app import main

ROWS = [
    {"question": f"which letter is number {n}?", "answer": "abcdef"[n % 6], "domain": "letters"}
    for n in range(18)
]


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path) -> Path:
    for name, value in {
        "HOME": tmp_path / "home",
        "MODEL": tiny_model_path,
        "EMBEDDER": sentence_folder(tmp_path / "embedder"),
        "THREADS": 1,
    }.items():
        monkeypatch.setenv(f"RTTC_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solved.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8"
    )
    return tmp_path


def drawn(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "kind" not in line]


@pytest.mark.parametrize("backbone", ["towers", "policy"])
def test_a_file_becomes_a_reward_model(
    installation: Path, capsys: pytest.CaptureFixture[str], backbone: str
) -> None:
    base = encoder_folder(installation / "base")
    few = ("--max-new-tokens", "3", "--k", "2", "--temperatures", "0")
    small = ("--rank", "2", "--epochs", "1", "--base", str(base), "--backbone", backbone)
    named = ("--data-license", "CC0")

    assert main(["reward", "train", "solved.jsonl", "--out", "judge", *few, *small, *named]) == 0

    printed = capsys.readouterr()
    assert "reward model: judge" in printed.out
    reason = {"towers": "held-out questions have samples", "policy": "it needs an encoder"}
    told = " ".join(printed.err.split())
    assert "no head that judges by samples" in told
    assert reason[backbone] in told
    card = (installation / "judge" / "README.md").read_text(encoding="utf-8")
    assert "There is no head that judges by samples" in card
    assert "Questions and answers: CC0" in card
    rows = drawn(installation / "judge" / "candidates.jsonl")
    assert {row["source"] for row in rows} >= {"direct", "rag", "reference", "neighbour"}
    assert sum(row["source"] in ("direct", "rag") for row in rows) == 36

    assert main(["reward", "eval", "judge", "judge/candidates.jsonl", "--json", "-"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["reward_model"] == "judge"
    assert measured["everything"]["answers"] == len(rows)
    assert measured["answered"]["answers"] == 36
    assert measured["ms_per_pair"] > 0


def test_a_chat_judge_that_fails_costs_no_candidate(
    installation: Path, capsys: pytest.CaptureFixture[str], tiny_model_path: Path
) -> None:
    """The tiny model's context is shorter than the instructions of a judge."""
    draw = ["reward", "draw", "solved.jsonl", "--out", "c.jsonl", "--max-new-tokens", "3"]
    draw += ["--questions", "2", "--k", "2", "--arms", "direct", "--temperatures", "0"]
    assert main([*draw, "--scorer", "chat-judge"]) == 2
    assert "name it with --scorer-model" in " ".join(capsys.readouterr().err.split())
    judge = ["--scorer", "chat-judge", "--scorer-model", str(tiny_model_path)]
    assert main([*draw, "--negatives", "0", *judge]) == 1
    assert "leaves no room in the model's context" in " ".join(capsys.readouterr().err.split())
    rows = drawn(installation / "c.jsonl")
    assert [row["source"] for row in rows if row.get("undecided")] == ["direct", "direct"]


def test_a_second_run_draws_nothing_again(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reward", "draw", "solved.jsonl", "--out", "c.jsonl", "--max-new-tokens", "3"]
    assert main([*command, "--k", "2"]) == 0
    first = (installation / "c.jsonl").read_bytes()
    assert main([*command, "--k", "2"]) == 0
    assert (installation / "c.jsonl").read_bytes() == first
    assert "reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--arms", "rag,foo"], "'foo' is not one of", id="arm"),
        pytest.param(["--temperatures", "warm"], "must be numbers", id="temperature"),
        pytest.param(["--k", "0"], "k=0 must be at least 1", id="k"),
        pytest.param(["--questions", "0"], "questions=0 must be at least 1", id="questions"),
        pytest.param(["--epochs", "0"], "epochs=0.0 must be above 0", id="epochs"),
    ],
)
def test_misuse_is_told_before_any_work(
    installation: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    del installation
    assert main(["reward", "train", "solved.jsonl", "--out", "judge", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_file_of_solved_questions_is_no_file_of_candidates(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del installation
    assert main(["reward", "eval", "self-confidence", "solved.jsonl"]) == 2
    assert "make one with 'rttc reward draw'" in capsys.readouterr().err


def test_training_on_a_file_without_a_row_fails(
    installation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installation / "x.csv").write_text("question,answer\n")
    assert main(["reward", "train", "x.csv", "--out", "judge"]) == 1
    assert "no row could be used" in capsys.readouterr().err
