"""Commands with models behind an address, and with keys that show up nowhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from installations import Installation
from openai_server import OpenAIServer, openai_server
from psycopg.sql import SQL, Identifier

from rttc_graph.cli.app import main

pytest.importorskip("langchain_openai")

KEY = "very-private-42"
ROWS = [
    {"question": f"what is {n} plus {n}", "answer": str(2 * n), "domain": "sums"} for n in range(9)
]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as found:
        found.reply = lambda body: "9" if "You grade answers" in str(body) else "14"
        yield found


@pytest.fixture
def hosted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: Installation,
    server: OpenAIServer,
) -> OpenAIServer:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RTTC_MODEL", server.url)
    monkeypatch.setenv("RTTC_EMBEDDER", f"{server.url}#embed")
    monkeypatch.setenv("RTTC_REWARD", f"{server.url}#judge")
    for role in ("MODEL", "EMBEDDER", "REWARD"):
        monkeypatch.setenv(f"RTTC_{role}_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "solved.jsonl").write_text(lines, encoding="utf-8")
    assert main(["kb", "ingest", "solved.jsonl", "--json"]) == 0
    return server


def asked(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["ask", "what is 7 plus 7", "--domain", "sums", "--json", *flags]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def everything_stored(dsn: str) -> str:
    """Return all rows of all our tables as text."""
    found: list[str] = []
    with psycopg.connect(dsn) as connection:
        named = connection.execute(
            "select c.oid::regclass::text from pg_class c "
            "where c.relkind = 'r' and c.relname like 'rttc%'"
        ).fetchall()
        for (table,) in named:
            rows = connection.execute(SQL("select * from {}").format(Identifier(table))).fetchall()
            found += [str(row) for row in rows]
    return "\n".join(found)


def test_all_three_parts_are_served_and_ttt_closes_itself(
    hosted: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    result = asked(capsys, "--tau", "1")

    assert [c["arm"] for c in result["candidates"]] == ["nearest", "rag"]
    rag = result["candidates"][1]
    assert (rag["answer"], rag["reward"]) == ("14", 0.9)
    assert rag["mean_logprob"] == pytest.approx(-0.5)
    assert (rag["prompt_tokens"], rag["completion_tokens"]) == (7, 2)
    [note] = [e["detail"]["reason"] for e in result["ledger"] if e["event"] == "noted"]
    assert note.startswith(f"ttt is closed: the policy model {hosted.url}#small-chat is served")
    assert set(hosted.keys) == {KEY}
    assert {body["model"] for body in hosted.bodies} == {"small-chat", "embed", "judge"}


def test_a_panel_draws_from_a_served_model(
    hosted: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    result = asked(capsys, "--policy", "majority", "--n", "3")
    assert (result["answer"], result["arm"]) == ("14", "majority")
    assert main(["ask", "what is 7 plus 7", "--policy", "majority", "--n", "3"]) == 0
    printed = capsys.readouterr().out
    assert "majority: the votes of 3 answers" in printed
    assert re.search(r"→ +3 +\d+\.\d+ +0\.900 +14", printed)
    assert len([b for b in hosted.chats() if b["model"] == "small-chat"]) == 6


def test_the_note_is_on_the_screen_and_ttt_alone_is_refused(
    hosted: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "what is 7 plus 7", "--domain", "sums", "--tau", "1"]) == 0
    assert "note: ttt is closed:" in capsys.readouterr().out
    assert main(["ask", "what is 7 plus 7", "--policy", "ttt"]) == 2
    assert "policy='ttt': ttt is closed" in capsys.readouterr().err


def test_a_key_that_a_server_repeats_is_shown_and_stored_nowhere(
    hosted: OpenAIServer,
    installed: Installation,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = hosted.reply

    def forgetful(body: dict[str, Any]) -> str:
        if body["model"] == "judge":
            hosted.key = "another-key"  # every call after the first judgement is refused
        return answers(body)

    hosted.reply = forgetful
    result = asked(capsys, "--tau", "1", "--no-cache")
    failures = [e["detail"]["error"] for e in result["ledger"] if e["event"] == "failed"]
    assert failures
    assert all("Incorrect API key provided: [key]" in one for one in failures)
    assert main(["--debug", "kb", "search", "seven"]) == 1
    printed = capsys.readouterr()
    stored = everything_stored(installed.described["RTTC_DATABASE_URL"])
    assert "Incorrect API key" in stored
    for text in (json.dumps(result), printed.out, printed.err, caplog.text, stored):
        assert KEY not in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "opneai:gpt-5"], "did you mean openai:gpt-5?"),
        (["--model", "openai:gpt-5"], "model='openai:gpt-5' needs the environment variable"),
        (["--reward", "openai:gpt-5"], "reward='openai:gpt-5' needs the environment variable"),
        (["--embedder", "openai:e"], "embedder='openai:e' needs the environment variable"),
    ],
)
def test_a_wrong_name_is_one_clear_sentence(
    hosted: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    capsys.readouterr()
    assert main([*flags, "ask", "what is 7 plus 7"]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert sum(line.startswith("rttc: ") for line in printed.err.splitlines()) == 1


def test_a_trained_arm_of_a_served_model_is_refused_before_any_work(
    hosted: OpenAIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hosted.bodies.clear()
    assert main(["reward", "draw", "solved.jsonl", "--out", "c.jsonl", "--arms", "ttt"]) == 2
    assert "ttt is closed" in capsys.readouterr().err
    assert not hosted.chats()


def test_eval_names_the_model_that_the_server_has(
    hosted: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "what is 20 plus 1", "answer": "21"}) + "\n")
    capsys.readouterr()
    flags = ["--domain", "sums", "--json", "-"]
    assert main(["eval", "questions.jsonl", *flags]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures["settings"]["policy models"] == f"{hosted.url}#small-chat"
    assert {"nearest", "direct", "rag", "cascade"} <= figures["policies"].keys()
    assert "ttt" not in figures["policies"]
    assert printed.err.count("warning: ttt is closed") == 1
