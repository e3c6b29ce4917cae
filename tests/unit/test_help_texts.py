"""Every text of `--help` says what an option is and what holds without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rttc_graph.cli.app import whole_command
from rttc_graph.cli.shared_options import with_default

FRAGMENTS = ("Of ", "By ", "The same", "Likewise", "With which", "As ", "Only ", "Even ")


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


COMMANDS = list(commands(whole_command(), "rttc"))
PARAMETERS = {
    f"{path} {parameter.name}": parameter
    for path, command in COMMANDS
    for parameter in command.params
    if parameter.name != "help"
}


def test_a_command_begins_with_a_sentence() -> None:
    firsts = {path: (command.help or "").split("\n\n")[0].strip() for path, command in COMMANDS}
    assert {p: t for p, t in firsts.items() if not (t[:1].isupper() and t.endswith("."))} == {}


def help_of(parameter: Any) -> str:
    return getattr(parameter, "help", None) or ""


def is_sentence(text: str) -> bool:
    return text.endswith(".") and len(text.split()) > 1 and not text.startswith(FRAGMENTS)


def test_an_option_is_described_in_a_sentence() -> None:
    texts = {name: help_of(parameter) for name, parameter in PARAMETERS.items()}
    assert len(texts) > 200
    assert {name: text for name, text in texts.items() if not is_sentence(text)} == {}


def names_default(parameter: Any) -> bool:
    text = help_of(parameter)
    is_switch = getattr(parameter, "is_flag", False) and parameter.default in (False, None)
    shows = parameter.default is not None and getattr(parameter, "show_default", False)
    return bool(
        parameter.required or is_switch or shows or "default:" in text or text.startswith("Aim:")
    )


def test_an_option_names_its_default() -> None:
    assert {n: help_of(p) for n, p in PARAMETERS.items() if not names_default(p)} == {}


def test_the_default_of_a_setting_is_read_from_the_settings() -> None:
    assert with_default("Accept", "tau_r") == "Accept (default: the setting tau_r, 0.5)."
    assert with_default("Greedy", "temperature").endswith("temperature, 0.0).")
    assert with_default("Cache", "use_cache").endswith("use_cache, on).")
