"""Every text of `--help` says what an option is and what holds without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rttc_graph.cli.app import app
from rttc_graph.cli.shared_options import with_default

FRAGMENTS = ("Of ", "By ", "The same", "Likewise", "With which", "As ", "Only ", "Even ")


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


COMMANDS = list(commands(typer.main.get_command(app), "rttc"))
PARAMETERS = [
    pytest.param(parameter, id=f"{path} {parameter.name}")
    for path, command in COMMANDS
    for parameter in command.params
    if parameter.name != "help"
]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_a_command_begins_with_a_sentence(path: str, command: Any) -> None:
    first = (command.help or "").split("\n\n")[0].strip()
    assert first[:1].isupper(), path
    assert first.endswith("."), path


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_an_option_is_described_in_a_sentence(parameter: Any) -> None:
    text: str = getattr(parameter, "help", None) or ""
    assert text.endswith("."), text
    assert len(text.split()) > 1, text
    assert not text.startswith(FRAGMENTS), text


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_an_option_names_its_default(parameter: Any) -> None:
    text: str = getattr(parameter, "help", None) or ""
    is_switch = getattr(parameter, "is_flag", False) and parameter.default in (False, None)
    shows = parameter.default is not None and getattr(parameter, "show_default", False)
    assert (
        parameter.required or is_switch or shows or "default:" in text or text.startswith("Aim:")
    ), text


def test_the_default_of_a_setting_is_read_from_the_settings() -> None:
    assert with_default("Accept", "tau_r") == "Accept (default: the setting tau_r, 0.5)."
    assert with_default("Greedy", "temperature").endswith("temperature, 0.0).")
    assert with_default("Cache", "use_cache").endswith("use_cache, on).")
