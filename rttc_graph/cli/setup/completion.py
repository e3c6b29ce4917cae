"""`rttc completion`: what a shell runs to complete commands, options and their values."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer import completion as untyped_completion

from rttc_graph.cli.screen import out

__all__ = ("answer_shells", "print_completion")

_VARIABLE = "_RTTC_COMPLETE"
"""Environment variable by which a shell asks the program for completions."""


class Shell(StrEnum):
    """A shell that completes."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def print_completion(
    shell: Annotated[Shell, typer.Argument(help="Shell that is to complete.", show_default=False)],
) -> None:
    """Print the script that makes a shell complete rttc's commands and options.

    Example: rttc completion bash > ~/.local/share/bash-completion/completions/rttc

    Example: rttc completion zsh > ~/.zfunc/_rttc    # with fpath+=~/.zfunc before compinit

    Example: rttc completion fish > ~/.config/fish/completions/rttc.fish
    """
    typer_s: Any = untyped_completion
    script: str = typer_s.get_completion_script(
        prog_name="rttc", complete_var=_VARIABLE, shell=shell.value
    )
    out.print(script, markup=False)


def answer_shells() -> None:
    """Get ready to answer a shell that asks for completions; nothing happens for anybody else."""
    if _VARIABLE in os.environ:
        typer_s: Any = untyped_completion
        typer_s.completion_init()
