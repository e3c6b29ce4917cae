"""Commands that pages, images and compose files say to type, held to the tree of commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from rttc_graph.cli.app import whole_command

COMMANDS: Any = whole_command()

_ENDS = frozenset(["|", "||", ";", "&&", ">", "<", "rttc"])


def commands_in(line: str) -> list[list[str]]:
    """Return the words behind each `rttc` of a line for a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        words = list(lexer)
    except ValueError:  # a text in quotes goes on in the next line
        words = line.split()
    found: list[list[str]] = []
    for place, word in enumerate(words):
        if word == "rttc":
            rest = words[place + 1 :]
            end = next((n for n, other in enumerate(rest) if other in _ENDS), None)
            found.append(rest[:end])
    return found


def problem(words: Sequence[str]) -> str | None:
    """Return which of the words behind `rttc` is no command and no flag of it."""
    command = COMMANDS
    path, place = "rttc", 0
    while place < len(words):
        word = words[place]
        place += 1
        if word.startswith("-") and word != "-":
            flag = word.partition("=")[0]
            option = next((p for p in command.params if flag in [*p.opts, *p.secondary_opts]), None)
            if option is None and flag not in ("--help", "-h", "--debug"):
                return f"{path} has no {flag}"
            takes_value = option is not None and not getattr(option, "is_flag", False)
            place += takes_value and "=" not in word
        elif inner := getattr(command, "commands", None):
            if word not in inner:
                return f"{path} has no command {word}" if word.isascii() else None
            command, path = inner[word], f"{path} {word}"
    return None
