"""A conversation: its turns, the last answer, and what a person can ask about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from rttc_graph.cli.commands.ask import (
    print_candidates,
    print_sources,
    print_votes,
    route,
    shorten,
    verdict,
    worth,
)
from rttc_graph.cli.screen import out, print_prose
from rttc_graph.installation.ask_question import AskResult, why_cut
from rttc_graph.state import ChatTurn
from rttc_graph.support.identity import known_names

__all__ = ("MOST_TURNS", "Conversation")

MOST_TURNS = 20
"""Latest turns that stand before a question: ten questions and their answers."""


@dataclass(slots=True)
class Conversation:
    """What was said so far."""

    turns: list[ChatTurn] = field(default_factory=list[ChatTurn])
    last: AskResult | None = None
    is_over: bool = False

    @property
    def history(self) -> list[ChatTurn]:
        """The turns that stand before the next question."""
        return self.turns[-MOST_TURNS:]

    def add(self, question: str, result: AskResult, *, left_out: int = 0) -> None:
        """Keep an answer, and print it with how it came about.

        Args:
            question: What was asked.
            result: What came of it.
            left_out: Earliest turns of `history` that the question was asked without.
        """
        self.last = result
        self.turns.append({"role": "user", "content": question})
        self.turns.append({"role": "assistant", "content": result["answer"]})
        out.print(Text(result["answer"], style="bold"))
        if left_out:
            without = f"note: asked without the first {left_out} turns, for which the model's "
            print_prose(f"{without}context has no room; /new begins anew", style="dim yellow")
        _print_dimly(result)
        out.print()

    def obey(self, line: str) -> None:
        """Do what a line that begins with a slash says."""
        name = line.split()[0].lower()
        if name in _COMMANDS:
            _COMMANDS[name].does(self)
        else:
            print_prose(f"there is no {name}; {known_names(name, list(_COMMANDS))}", style="yellow")


@dataclass(frozen=True, slots=True)
class _Command:
    says: str
    does: Callable[[Conversation], None]


def _print_dimly(result: AskResult) -> None:
    """Print in the background whether the answer is accepted, and the way to it."""
    for entry in result["ledger"]:
        if entry["event"] == "rewritten":
            print_prose(f"searched with: {entry['detail']['question']}", style="dim")
        if entry["event"] == "failed":
            print_prose(f"failed: {entry['node']}: {entry['detail']['error']}", style="dim red")
        if entry["event"] in ("noted", "dropped"):
            print_prose(f"note: {entry['detail']['reason']}", style="dim yellow")
    if (cut := why_cut(result)) is not None:
        print_prose(f"note: {cut}", style="dim yellow")
    if not result["accepted"]:
        print_prose(verdict(result))
    said = f"{result['arm']}, {worth(result)}, {result['seconds']:.1f} s; {route(result)}"
    print_prose(said, style="dim")


def _show_samples(talk: Conversation) -> None:
    if talk.last is None:
        print_prose("there is no answer yet: ask something", style="yellow")
    elif not talk.last["sources"]:
        print_prose("the last answer rests on no samples")
    else:
        print_sources(talk.last)


def _show_arms(talk: Conversation) -> None:
    if talk.last is None:
        print_prose("there is no answer yet: ask something", style="yellow")
    else:
        print_candidates(talk.last)
        print_votes(talk.last)


def _show_history(talk: Conversation) -> None:
    if not talk.turns:
        print_prose("nothing was said yet")
    for turn in talk.turns:
        who = "you" if turn["role"] == "user" else "rttc"
        out.print(Text(f"{who:4}  {shorten(turn['content'], 70)}"))


def _begin_anew(talk: Conversation) -> None:
    talk.turns.clear()
    talk.last = None
    print_prose("a new conversation")


def _end(talk: Conversation) -> None:
    talk.is_over = True


def _help(talk: Conversation) -> None:
    del talk
    for name, command in _COMMANDS.items():
        out.print(Text(f"{name:9}  {command.says}"))


_COMMANDS: Mapping[str, _Command] = {
    "/samples": _Command("the samples that the last answer rests on", _show_samples),
    "/arms": _Command("what each arm answered, with rewards, costs and votes", _show_arms),
    "/history": _Command("what was said so far", _show_history),
    "/new": _Command("forget what was said and begin anew", _begin_anew),
    "/help": _Command("these commands", _help),
    "/quit": _Command("end; so do Ctrl-D, and Ctrl-C at the prompt", _end),
}
