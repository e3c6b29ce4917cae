"""Groups of commands: bare, they show their help; in it each command has its whole sentence."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ("CommandGroup", "command_group")

_WHOLE_SENTENCE = 1000
"""Length at which a command's sentence would be cut; none is that long."""


class CommandGroup(TyperGroup):
    """A group of commands that helps whoever names none of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help if there is nothing to parse; that is what was asked for, and no misuse."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(0)
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their sentences, wrapped and not cut."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_WHOLE_SENTENCE))
            for name, command in named
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def command_group(**more: Any) -> typer.Typer:
    """Return a group without commands yet; `more` is what `typer.Typer` takes."""
    return typer.Typer(
        cls=CommandGroup,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )
