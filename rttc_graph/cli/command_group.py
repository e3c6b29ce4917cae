"""Groups of commands: bare, they show their help; in it each command has its whole sentence."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ("CommandGroup", "bare_option", "command_group")

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


def bare_option(flag: str, value: str) -> type[TyperCommand]:
    """Return a kind of command in which an option may stand without its value.

    Args:
        flag: The option, such as `--ray`.
        value: Its value where none follows, that is at the end or before another option.
    """

    class WithBareOption(TyperCommand):
        """A command with an option that may stand alone."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            given: list[str] = []
            for place, word in enumerate(args):
                given.append(word)
                follows = args[place + 1 : place + 2]
                if word == flag and (not follows or follows[0].startswith("-")):
                    given.append(value)
            rest: list[str] = super().parse_args(ctx, given)
            return rest

    return WithBareOption
