"""Tables and sentences on terminals of any width: no word of them is broken."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from rttc_graph.cli import screen
from rttc_graph.cli.commands import ask
from rttc_graph.cli.screen import ScreenWatcher
from rttc_graph.installation import local
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.support.progress import Advance

COLUMNS = ("day", "domain", "arm", "runs", "accepted", "question")
QUESTION = "why was my card charged twice in one and the same shop"
ROWS = [("2026-11-27", "voltride", "nearest", 12, "83%", QUESTION), ("all", "", "rag", 3, "9%", "")]
WORDS = {
    *COLUMNS,
    *QUESTION.split(),
    "2026-11-27",
    "voltride",
    "nearest",
    "12",
    "83%",
    "rag",
    "3",
    "9%",
}


def printed(
    width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    console = Console(
        soft_wrap=True, highlight=False, color_system=None, width=width, force_terminal=bool(width)
    )
    monkeypatch.setattr(screen, "out", console)
    screen.print_table(COLUMNS, ROWS)
    screen.print_prose(f"{QUESTION}; {QUESTION}")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 100, 200])
def test_no_word_is_broken_on_a_terminal_of_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(width, monkeypatch, capsys)
    assert {word.strip(";") for line in lines for word in line.split()} - {"all"} == WORDS
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("why was my card"))]
    is_list = lines[0].split() == ["day", "2026-11-27"]
    assert is_list == (width < 60)
    if not is_list:
        assert all(len(line) <= width for line in table)


def test_a_cell_without_a_column_name_is_kept_in_a_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(soft_wrap=True, color_system=None, width=20, force_terminal=True)
    monkeypatch.setattr(screen, "out", console)
    screen.print_table(["", "source"], [["→", "a" * 30], ["", "b" * 30]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["→"], ["source", "a" * 30], ["source", "b" * 30]]


def test_a_pipe_has_no_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(None, monkeypatch, capsys)
    assert [line.split()[0] for line in lines[:3]] == ["day", "2026-11-27", "all"]
    assert QUESTION in lines[1]
    assert len(lines) == 4


def test_a_table_without_rows_has_its_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "out", Console(color_system=None, width=80, force_terminal=True))
    screen.print_table(["domain", "samples"], [])
    assert capsys.readouterr().out.split() == ["domain", "samples"]


def test_the_label_of_a_question_says_what_is_done_from_the_first_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []

    class Recorder(ScreenWatcher):
        @contextmanager
        def step(self, what: str) -> Generator[Advance]:
            shown.append(what)
            yield lambda done, total: None

        def describe(self, text: str) -> None:
            shown.append(text)

    class Local:
        async def check_domain(self, domain: str | None) -> None:
            shown.append(f"domain {domain}")

        async def warm_up(self, *, needs_database: bool) -> None:
            shown.append(f"warm-up, database {needs_database}")

        async def ask(self, question: str, **given: Any) -> str:
            given["on_event"]({"event": "ttt_step", "step": 1, "steps": 2, "loss": 0.5})
            return question

    @contextmanager
    def opened(config: object) -> Generator[Local]:
        yield Local()

    def fetched(config: object, watcher: object) -> str:
        return "loading a-model"

    monkeypatch.setattr(ask, "ScreenWatcher", Recorder)
    monkeypatch.setattr(local, "open_local", opened)
    run: Any = vars(ask)["_run"]
    monkeypatch.setattr(ask, "fetch_missing", fetched)
    assert run(InstallationConfig(), "q", "sums") == "q"
    assert shown == [
        "opening the knowledge base",
        "domain sums",  # a wrong one is refused before any model is loaded
        "loading a-model",
        "warm-up, database False",
        "answering",
        "training step 1 of 2, loss 0.500",
    ]


LONG = "What does the yearly insurance of a bicycle with a motor cost in"


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["a", "b", "a"], ["a", "b", "a"]),
        ([LONG], [f"{LONG[:39]}…"]),
        ([f"{LONG} Spain", f"{LONG} Italy"], ["…Spain", "…Italy"]),
        ([f"{LONG} S {LONG} 1", f"{LONG} S {LONG} 2", f"{LONG} I"], ["……1", "……2", "…I"]),
        (["x" * 50 + "1", "x" * 50 + "2"], ["…1", "…2"]),
        ([f"{LONG} Spain", f"{LONG} Spain"], [f"{LONG[:39]}…"] * 2),
    ],
)
def test_texts_that_begin_alike_are_shown_where_they_differ(
    texts: list[str], shown: list[str]
) -> None:
    assert ask.shorten_apart(texts) == shown


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_step_is_counted_once_it_is_known_of_how_much(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=120, color_system=None)
    monkeypatch.setattr(screen, "err", console)
    with screen.progress("judge") as bar:
        bar.refresh()
        before = file.getvalue()
        bar.update(bar.task_ids[0], completed=1, total=4)
        bar.refresh()
    assert "judge" in before
    assert "/" not in before  # neither 0/0 nor 0/?
    assert ("1/4" in file.getvalue()) == is_terminal
    if not is_terminal:
        assert before == "judge\n"
