"""What the commands print: tables for people, JSON for programs, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rttc_graph.jobs.output_files import check_outputs
from rttc_graph.support.named_files import write_file
from rttc_graph.support.progress import Advance

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def _checked_file(name: str | None) -> str | None:
    """Return the name of a file of figures, checked before the work whose figures go there."""
    check_outputs(name)
    return name


AsJsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="File to write the figures to as JSON; - prints them (default: none).",
        callback=_checked_file,
    ),
]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, highlight=False)


GOES_ON = "every answer so far is kept: run the same command again, and it goes on from there"
"""End of a message about a job that keeps its rows as it goes."""


@contextmanager
def keeping(what: str) -> Generator[None]:
    """Say what is kept, if Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt as exc:
        interrupted = typer.Abort()  # what Typer lets through; Ctrl-C itself ends without a word
        interrupted.add_note(what)
        raise interrupted from exc


def print_json(value: object) -> None:
    """Print one JSON document on stdout, plain text in any terminal."""
    out.print(Text(json.dumps(value, ensure_ascii=False, indent=2)))


def write_json(value: object, json_out: str | None) -> bool:
    """Write figures as `--json FILE` asks, and tell whether people may be shown them too."""
    if json_out == "-":
        print_json(value)
        return False
    if json_out is not None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        write_file(Path(json_out), text + "\n")
    return True


def confirm(question: str, *, yes: bool) -> None:
    """Ask on stderr before something is lost; without a yes, also at the end of input, end."""
    if yes or _says_yes(question):
        return
    err.print("nothing was done; --yes does it without asking")
    raise typer.Exit(1)


def _says_yes(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or the end of the input
        err.print()
        return False


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their column names; numbers go to the right.

    On a terminal, cells are broken between words; where even that is too wide, each row is printed
    as a list of names and values. In a file or a pipe no cell is broken.
    """
    body = [list(row) for row in rows]
    shown = [[_shown(cell) for cell in row] for row in body]
    gap, widths = _layout(columns, shown, out.width if out.is_terminal else None)
    if not widths:
        for row in shown:
            pairs = zip(columns, row, strict=True)
            print_pairs({name: cell for name, cell in pairs if name or cell})
            out.print()
        return
    table = Table(box=None, pad_edge=False, collapse_padding=gap == 1)
    for index, (name, width) in enumerate(zip(columns, widths, strict=True)):
        numeric = bool(body) and all(isinstance(row[index], int | float) for row in body)
        table.add_column(name, justify="right" if numeric else "left", width=width, overflow="fold")
    for row in shown:
        table.add_row(*map(Text, row))
    if not out.is_terminal:
        out.width = sum(widths) + gap * len(widths)  # a file or a pipe has no edge
    out.print(table)


def _layout(
    columns: Sequence[str], rows: Sequence[Sequence[str]], room: int | None
) -> tuple[int, list[int]]:
    """Return the spaces between two columns, and the width of each; no width if none fits.

    Args:
        columns: Their names.
        rows: Cells as they are shown.
        room: Columns of the terminal; `None` where there is no edge.
    """
    table = [columns, *rows]
    cells = [[row[place] for row in table] for place in range(len(columns))]
    widths = [max(_longest(cell.splitlines()) for cell in column) for column in cells]
    words = [
        max(min(width, _LEAST), *(_longest(cell.split()) for cell in column))
        for width, column in zip(widths, cells, strict=True)
    ]
    for gap in (2, 1):
        left = None if room is None else room - gap * (len(columns) - 1)
        if left is None or sum(widths) <= left:
            return gap, widths
        if sum(words) <= left:
            return gap, _narrowed(widths, words, left)
    return 1, []


_LEAST = 16
"""Columns of a text below which it is no pleasure to read."""


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return widths that fit: the widest column gives way first, none below its least."""
    found = list(widths)
    while sum(found) > room:
        able = (place for place in range(len(found)) if found[place] > least[place])
        found[max(able, key=found.__getitem__)] -= 1
    return found


def _longest(parts: Sequence[str]) -> int:
    """Return the columns that the longest of some texts takes on a terminal."""
    return max(map(cell_len, parts), default=0)


def print_prose(text: str | Text, *, style: str = "") -> None:
    """Print sentences of ours, on a terminal broken between words.

    Answers and samples are printed whole, so that they can be copied: their lines are broken by the
    terminal alone.
    """
    prose = text if isinstance(text, Text) else Text(text, style=style)
    out.print(prose, soft_wrap=not out.is_terminal)


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        out.print(Text(f"{name.ljust(width)}  {_shown(value)}"))


class _OnceCounted(ProgressColumn):
    """A column of progress that is empty until it is known how much there is to do."""

    def __init__(self, column: ProgressColumn) -> None:
        self._column = column
        super().__init__()

    def __call__(self, task: Task) -> RenderableType:
        """Return what the column shows, which itself decides how often that is made anew."""
        return self._column(task) if task.total else Text("")

    def render(self, task: Task) -> RenderableType:
        """Return what the column shows."""
        return self._column.render(task)


@contextmanager
def progress(what: str) -> Generator[Progress]:
    """Show what is done on stderr while the block runs: for a person as a bar, else as a line.

    Count and time left appear with the first total.
    """
    counted = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *map(_OnceCounted, counted),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        bar.add_task(what, total=None)
        if not err.is_terminal:
            err.print(Text(what), soft_wrap=True)
        yield bar


class ScreenWatcher:
    """A job's watcher that shows steps as bars and all else as lines, on stderr."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    @contextmanager
    def step(self, what: str) -> Generator[Advance]:
        """Show a bar while the block runs."""
        with progress(what) as bar:
            self._bar = bar
            try:
                yield lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)
            finally:
                self._bar = None

    def describe(self, text: str) -> None:
        """Put the text beside the bar of the step in hand."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    def tell(self, text: str) -> None:
        """Print the line on stderr."""
        err.print(Text(text))

    def warn(self, text: str) -> None:
        """Print the warning on stderr."""
        err.print(f"warning: {text}")


def size(count: int) -> str:
    """Return a number of bytes as text with a binary unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _shown(cell: object) -> str:
    if cell is None:
        return "–"  # noqa: RUF001 - a dash for "nothing", as in tables in print
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
