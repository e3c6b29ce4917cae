"""`rttc chat`: a conversation on a real database with a model behind an address."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installations import Installation
from openai_server import OpenAIServer, openai_server

from rttc_graph.cli.app import main
from rttc_graph.installation.local import LocalRttc

pytest.importorskip("langchain_openai")

ROWS = [
    {"question": "who wrote faust", "answer": "Goethe", "domain": "books"},
    {"question": "when did goethe write faust", "answer": "1808", "domain": "books"},
]


def reply(body: dict[str, Any]) -> str:
    asked = body["messages"][-1]["content"]
    return "when did goethe write faust" if "on its own:" in asked else f"about {asked}"


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation
) -> Iterator[OpenAIServer]:
    for name, value in installed.described.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "books.jsonl").write_text(lines, encoding="utf-8")
    with openai_server() as found:
        found.reply = reply
        monkeypatch.setenv("RTTC_MODEL", found.url)
        monkeypatch.setenv("RTTC_EMBEDDER", f"{found.url}#embed")
        assert main(["kb", "ingest", "books.jsonl"]) == 0
        yield found


def talk(monkeypatch: pytest.MonkeyPatch, *lines: str, flags: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["chat", "--domain", "books", *flags])


def test_a_follow_up_is_searched_with_its_conversation(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("who wrote faust", "/samples", "and when?", "/arms", "/history", "/quit", "too late")
    assert talk(monkeypatch, *lines, flags=("--arms", "rag")) == 0
    printed = capsys.readouterr().out
    assert "about who wrote faust" in printed
    assert "searched with: when did goethe write faust" in printed
    assert "about and when?" in printed
    assert "rag, " in printed
    assert "retrieve → rag_generate" in printed
    assert "Goethe" in printed
    assert "you   and when?" in printed
    assert "too late" not in printed
    last = server.chats()[-1]["messages"]
    said = [turn["content"] for turn in last if turn["role"] == "user"]
    assert said[-2:] == ["who wrote faust", "and when?"]


def test_a_new_conversation_knows_nothing_of_the_old_one(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "/arms", "who wrote faust", "/new", "and when?", "/quiet") == 0
    printed = capsys.readouterr().out
    assert "there is no answer yet" in printed
    assert "searched with" not in printed
    assert "there is no /quiet; did you mean '/quit'?" in printed


def test_rewriting_can_be_left_out(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "who wrote faust", "and when?", flags=("--no-rewrite",)) == 0
    assert "searched with" not in capsys.readouterr().out


def test_an_answer_that_is_given_up_costs_no_conversation(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def read(prompt: str = "") -> str:
        del prompt
        lines = ["who wrote faust", "give up", "who wrote faust again", "/history"]
        if len(asked) == len(lines):
            raise EOFError
        asked.append(lines[len(asked)])
        return asked[-1]

    ask = LocalRttc.ask

    async def interrupted(self: LocalRttc, question: str, **more: Any) -> Any:
        if question == "give up":
            raise KeyboardInterrupt
        return await ask(self, question, **more)

    monkeypatch.setattr(LocalRttc, "ask", interrupted)
    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "--domain", "books"]) == 0
    printed = capsys.readouterr().out
    assert "given up; the conversation before it is kept" in printed
    assert "you   who wrote faust again" in printed
    assert "you   give up" not in printed


def test_a_wrong_domain_ends_it_at_once(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("who wrote faust\n"))
    assert main(["chat", "--domain", "bookz"]) == 2
    assert "did you mean 'books'" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_answer_that_was_cut_is_marked(
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
) -> None:
    server.finish_reason = reason
    assert talk(monkeypatch, "who wrote faust", flags=("--policy", "rag")) == 0
    marked = "note: the answer was cut at its longest: a higher max_new_tokens allows more"
    assert (marked in capsys.readouterr().out) == (reason == "length")
    assert main(["ask", "who wrote faust", "--policy", "rag"]) == 0
    assert (marked in capsys.readouterr().out) == (reason == "length")
