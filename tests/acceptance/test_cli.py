"""The command line on a real database, a tiny random model and a tiny random embedder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from installations import Installation

from rttc_graph.cli.app import main

ROWS = [
    {"question": f"what is {n} plus {n}", "answer": str(2 * n), "domain": "sums"} for n in range(20)
]


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation) -> Path:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def solved(installation: Path) -> Path:
    path = installation / "solved.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def call_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return exit code and stderr; there must be no traceback and nothing on stdout."""
    code = main(arguments)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out == ""
    return code, printed.err


def test_ask_goes_through_all_arms_and_its_json_has_the_promised_shape(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")

    result = call_json(
        capsys, "ask", "what is 7 plus 8", "--domain", "sums", "--tau", "1", "--json"
    )

    assert list(result) == ["answer", "arm", "reward", "candidates", "ledger", "cache", "seconds"]
    assert [c["arm"] for c in result["candidates"]] == ["direct", "rag", "ttt"]
    wanted = {"arm", "answer", "reward", "seconds", "prompt_tokens", "completion_tokens"}
    assert all(wanted <= c.keys() for c in result["candidates"])
    assert result["cache"] == {"samples": "miss", "adapter": "miss"}
    assert result["reward"] == max(c["reward"] for c in result["candidates"])


def test_a_repeated_question_is_served_from_the_cache(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    ask = ("ask", "what is 7 plus 8", "--domain", "sums", "--policy", "ttt", "--json")
    first, second = call_json(capsys, *ask), call_json(capsys, *ask)

    assert second["cache"] == {"samples": "hit", "adapter": "hit"}
    assert first["candidates"][0]["trained_tokens"] > 0
    assert second["candidates"][0]["trained_tokens"] == 0
    assert second["answer"] == first["answer"]
    assert call_json(capsys, "cache", "stats", "--json")["adapters"] == 1
    assert call_json(capsys, "cache", "purge", "--json")["adapters"] == 1
    assert call_json(capsys, *ask)["cache"] == {"samples": "miss", "adapter": "miss"}


def test_a_bad_row_is_named_and_nothing_is_stored(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with solved.open("a", encoding="utf-8") as file:
        file.write('{"question": "and the answer?"}\n')

    code, line = complaint(capsys, "kb", "ingest", str(solved))

    assert code == 1
    assert f"{solved}:21:" in line
    assert call_json(capsys, "kb", "stats", "--json")["domains"] == []


def test_skip_bad_keeps_the_good_rows_on_both_sides(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved.write_text("not JSON\n" + solved.read_text() + "[]\n", encoding="utf-8")

    report = call_json(capsys, "kb", "ingest", str(solved), "--skip-bad", "--json")

    assert (report["stored"], report["skipped"], len(report["bad"])) == (20, 2, 2)
    (domain,) = call_json(capsys, "kb", "stats", "--json")["domains"]
    assert (domain["domain"], domain["samples"]) == ("sums", 20)
    assert call_json(capsys, "kb", "delete", "--domain", "sums", "--json")["deleted"] == 20


def test_eval_measures_every_policy_on_the_same_rows(
    solved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_json(capsys, "kb", "ingest", str(solved), "--json")
    rows = solved.parent / "questions.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"question": f"what is {n} plus 1", "answer": str(n + 1), "domain": "sums"})
            + "\n"
            for n in range(50, 56)
        )
    )

    arguments = ("eval", str(rows), "--limit", "3", "--policies", "direct,rag,ttt,cascade")
    result = call_json(capsys, *arguments, "--json", "-")

    assert result["rows"] == 3
    assert list(result["policies"]) == ["direct", "rag", "ttt", "cascade"]
    for policy, summary in result["policies"].items():
        low, high = summary["interval"]
        assert 0 <= low <= summary["accuracy"] <= high <= 1
        assert sum(summary["arms"].values()) == 3
        assert (summary["trained_tokens"] > 0) == (policy in ("ttt", "cascade"))
    assert Path("rttc-eval-questions.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--json", "result.json"]) == 0  # all from the records
    assert json.loads(Path("result.json").read_text()) == result


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["ask", ""], "non-empty 'query'", id="empty-question"),
        pytest.param(["ask", "q", "--tau", "1.5"], "tau_r=1.5", id="tau-out-of-bounds"),
        pytest.param(["ask", "q", "--policy", "best"], "best", id="unknown-policy"),
        pytest.param(["ask"], "question", id="missing-argument"),
        pytest.param(["ask", "q", "--k", "many"], "valid integer", id="not-a-number"),
        pytest.param(["kb", "ingest", "nowhere.jsonl"], "nowhere.jsonl", id="missing-file"),
        pytest.param(["kb", "ingest", "data.xml"], ".xml", id="unknown-format"),
        pytest.param(["eval", "nowhere.jsonl"], "nowhere.jsonl", id="missing-questions"),
        pytest.param(["--config", "no.toml", "status"], "no.toml", id="missing-settings-file"),
        pytest.param(["db", "up"], "RTTC_DATABASE_URL", id="no-embedded-server-with-a-dsn"),
        pytest.param(["frobnicate"], "frobnicate", id="unknown-command"),
    ],
)
@pytest.mark.usefixtures("installation")
def test_misuse_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, line = complaint(capsys, *arguments)

    assert code == 2
    assert line.startswith("rttc: ")
    assert words in line
    assert line.count("\n") == 1


@pytest.mark.usefixtures("installation")
def test_a_database_that_is_down_is_a_failed_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTTC_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    code, line = complaint(capsys, "kb", "stats")

    assert code == 1
    assert "could not" in line


@pytest.mark.usefixtures("installation")
def test_status_speaks_of_models_and_database(capsys: pytest.CaptureFixture[str]) -> None:
    status = call_json(capsys, "status", "--json")

    assert status["database"] == "given by DSN"
    assert status["samples"] == 0
    assert status["packages"]["langgraph"][0].isdigit()


def commands() -> list[list[str]]:
    groups = {"kb": ["ingest", "stats", "delete", "reembed"], "cache": ["stats", "purge"]}
    groups |= {"db": ["up", "down", "status", "migrate"], "models": ["pull", "list"]}
    single = [["ask"], ["eval"], ["demo"], ["status"]]
    return single + [[group, name] for group, names in groups.items() for name in names]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert "--json" in text


def test_a_traceback_is_shown_with_debug_only(installation: Path) -> None:
    rttc = [sys.executable, "-m", "rttc_graph"]
    run = {"capture_output": True, "text": True, "cwd": installation, "check": False}
    plain: Any = subprocess.run([*rttc, "ask", ""], **run)  # type: ignore[call-overload]
    debug: Any = subprocess.run([*rttc, "ask", "", "--debug"], **run)  # type: ignore[call-overload]

    assert (plain.returncode, debug.returncode) == (2, 2)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
