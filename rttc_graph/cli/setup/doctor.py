"""`rttc doctor`: whether an installation is fit to work, line by line, with the way out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import typer
from rich.text import Text

from rttc_graph.cli.command_context import command_context
from rttc_graph.cli.error_exit import EXIT_FAILED
from rttc_graph.cli.screen import AsJson, out, print_json, print_prose
from rttc_graph.errors import ConfigurationError
from rttc_graph.installation.config import CONFIG_FILE
from rttc_graph.jobs.check_installation import Check, Outcome, check_installation

__all__ = ("show_checks",)

_STYLES: dict[Outcome, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show_checks(context: typer.Context, as_json: AsJson = False) -> None:
    """Look over the installation: packages, disk, models, keys, database, calibration.

    Each line is ok, warn or fail; where something is to be done, it says what. Nothing is
    downloaded and no model is loaded. Exit code 1 if a line is fail.

    Example: rttc doctor --json
    """
    checks = _checks(context)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            _print(check)
        counts = Counter(check.outcome for check in checks)
        out.print(", ".join(f"{counts[outcome]} {outcome}" for outcome in _STYLES))
    if any(check.outcome == "fail" for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _checks(context: typer.Context) -> list[Check]:
    given = command_context(context)
    try:
        config = given.config()
    except ConfigurationError as exc:
        return [
            Check(name="settings", outcome="fail", said=str(exc), way_out="rttc init shows all")
        ]
    file = given.config_file or Path(CONFIG_FILE)
    return check_installation(config, settings_file=file.resolve() if file.is_file() else None)


def _print(check: Check) -> None:
    line = Text(f"{check.outcome:4}", style=_STYLES[check.outcome])
    print_prose(line.append(f"  {check.name}: {check.said}", style="default"))
    if check.way_out:
        print_prose(f"      → {check.way_out}")
