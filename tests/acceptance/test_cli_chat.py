"""`rttc chat`: a conversation on a real database with a model behind an address."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installations import Installation
from openai_server import OpenAIServer, openai_server
from scripted_parts import ScriptedPolicyModel

from rttc_graph.cli.app import main
from rttc_graph.installation.ask_question import fitting_history
from rttc_graph.installation.local import LocalRttc
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.settings import RttcSettings
from rttc_graph.state import ChatTurn

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


def test_a_question_that_is_too_long_ends_no_conversation(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "who " * 30_000, "who wrote faust") == 0
    printed = capsys.readouterr()
    assert "the limit is 100000: shorten it" in printed.err
    assert "about who wrote faust" in printed.out


def test_a_conversation_that_outgrows_the_context_goes_on_without_its_beginning(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def context_tokens(self: ChatPolicyModel) -> int:
        return 300

    monkeypatch.setattr(ChatPolicyModel, "context_tokens", context_tokens)
    flags = ("--policy", "direct", "--no-rewrite", "--max-new-tokens", "8")
    lines = [f"who wrote faust {n} {'indeed ' * 20}" for n in range(4)]
    assert talk(monkeypatch, *lines, flags=flags) == 0
    printed = capsys.readouterr().out
    asked = [[turn["content"] for turn in body["messages"]] for body in server.chats()]
    assert [len(turns) for turns in asked] == [2, 4, 4, 4]
    assert asked[3][1] == lines[2].strip()
    assert "note: asked without the first 4 turns, for which the model's context" in printed


@pytest.mark.parametrize(
    ("context", "longest", "kept"),
    [(None, 10, 6), (400, 10, 6), (100, 10, 4), (60, 10, 2), (40, 10, 0), (100, 80, 0)],
)
async def test_the_latest_turns_that_fit_are_kept(
    context: int | None, longest: int, kept: int
) -> None:
    turns = [
        ChatTurn(role="user" if n % 2 == 0 else "assistant", content="word " * 10) for n in range(6)
    ]
    model = ScriptedPolicyModel(context=context)
    settings = RttcSettings(max_new_tokens=longest)
    found = await fitting_history(model, "what is it", turns, settings)
    assert found == turns[len(turns) - kept :]


READS = "from rttc_graph.cli.talking.chat import _lines; print([*_lines()])"


def test_bytes_that_are_no_text_end_no_conversation() -> None:
    told = subprocess.run(
        [sys.executable, "-c", READS],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        input=b"caf\xe9\nnext\n",
        capture_output=True,
        check=True,
    )
    assert told.stdout.decode().strip() == "['caf\ufffd', 'next']"


def test_lines_that_are_pasted_are_one_question() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", READS],
        env={**os.environ, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        until_shown(ours, "\x1b[?2004h")  # the terminal is asked to mark what is pasted
        os.write(ours, b"\x1b[200~one\ntwo\x1b[201~\r")
        until_shown(ours, "\x1b[?2004h")
        os.write(ours, b"\x04")
        shown = until_shown(ours, "]")
    os.close(ours)
    assert "['one\\ntwo']" in shown


def until_shown(terminal: int, text: str) -> str:
    """Return what a terminal shows, up to a text."""
    shown = b""  # a read may end within a character
    while text.encode() not in shown:
        shown += os.read(terminal, 4096)
    return shown.decode(errors="replace")
