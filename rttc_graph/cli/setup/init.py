"""`rttc init`: a settings file in which every setting stands, with what it does and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rttc_graph.cli.screen import AsJson, print_json, print_prose
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import CONFIG_FILE
from rttc_graph.installation.settings_file import settings_file

__all__ = ("write_settings",)


def write_settings(
    file: Annotated[Path, typer.Argument(help="Settings file to write.")] = Path(CONFIG_FILE),
    as_json: AsJson = False,
) -> None:
    """Write a settings file with every setting, its default and what it does, all commented out.

    A file that is there is left as it is. Commands read ./rttc.toml, or what --config names.

    Example: rttc init

    Example: rttc init ~/bank.toml && rttc --config ~/bank.toml status
    """
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(settings_file())
    except FileExistsError as exc:
        raise ConfigurationError(
            f"{str(file)!r} is there already and is left as it is: name another file, or move it "
            "away"
        ) from exc
    if as_json:
        print_json({"file": str(file)})
    else:
        print_prose(f"{file}: take out the # before a setting to change it; then: rttc doctor")
