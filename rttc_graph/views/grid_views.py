"""Grids turned, mirrored and coloured otherwise, as in puzzles of the kind of ARC.

A grid is a block of lines that hold nothing but single digits, maybe behind a label such as
`Input:`. Where all grids of a question and its samples are single lines, they are only mirrored and
coloured, since a line that is turned is no line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rttc_graph.state import Sample
from rttc_graph.views.view import View, renamed_sample

__all__ = ("grid_view",)

Grid = tuple[tuple[int, ...], ...]

_LINE = re.compile(
    r"^(?P<label>[A-Za-z][\w ]{0,19}:)?(?P<gap>[ \t]*)(?P<cells>\d(?:[ ,]+\d)+)[ \t]*$"
)

_LEAST_CELLS = 3
"""Cells of a line below which it is no grid: "2, 3" is a pair of numbers."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Grid in a text, by its lines."""

    first: int
    grid: Grid
    labels: tuple[str, ...]
    """Text before the cells of each line."""
    gap: str
    """Text between two cells."""


def grid_view(query: str, samples: Sequence[Sample], number: int) -> View | None:
    """Return a view with all grids turned or mirrored, and from the second round on recoloured.

    Args:
        query: The question.
        samples: Its samples.
        number: Number of the view, from 1; another one gives another transform.
    """
    if not _blocks(query):
        return None
    texts = [query, *(text for one in samples for text in (one["question"], one["answer"]))]
    grids = [block.grid for text in texts for block in _blocks(text)]
    flat = all(len(grid) == 1 for grid in grids)
    moves = _LINE_MOVES if flat else _MOVES
    move, back = moves[number % len(moves)]  # the first one stays behind: it changes nothing
    colours = _colours(number) if number >= len(moves) or flat else _SAME
    if move is _stay and colours == _SAME:
        return None
    undone = tuple(colours.index(colour) for colour in range(10))

    def there(text: str) -> str:
        return _changed(text, lambda grid: _recoloured(move(grid), colours))

    def here(text: str) -> str | None:
        if not _blocks(text):
            return None
        return _changed(text, lambda grid: back(_recoloured(grid, undone)))

    return View(
        kind="grids",
        number=number,
        query=there(query),
        samples=tuple(
            renamed_sample(one, there(one["question"]), there(one["answer"])) for one in samples
        ),
        undo=here,
    )


def _stay(grid: Grid) -> Grid:
    return grid


def _turn(grid: Grid) -> Grid:
    """Return a grid turned clockwise by a quarter."""
    return tuple(zip(*grid[::-1], strict=True))


def _turn_back(grid: Grid) -> Grid:
    return _turn(_turn(_turn(grid)))


def _half(grid: Grid) -> Grid:
    return _turn(_turn(grid))


def _mirror(grid: Grid) -> Grid:
    """Return a grid with left and right exchanged."""
    return tuple(row[::-1] for row in grid)


def _upside_down(grid: Grid) -> Grid:
    return grid[::-1]


def _transpose(grid: Grid) -> Grid:
    return tuple(zip(*grid, strict=True))


def _across(grid: Grid) -> Grid:
    """Return a grid mirrored at its other diagonal."""
    return _half(_transpose(grid))


_Move = Callable[[Grid], Grid]
_MOVES: tuple[tuple[_Move, _Move], ...] = (
    (_stay, _stay),
    (_mirror, _mirror),
    (_transpose, _transpose),
    (_half, _half),
    (_upside_down, _upside_down),
    (_turn, _turn_back),
    (_turn_back, _turn),
    (_across, _across),
)
"""The eight symmetries of a rectangle's cells, each with its inverse."""

_LINE_MOVES: tuple[tuple[_Move, _Move], ...] = ((_stay, _stay), (_mirror, _mirror))

_SAME = tuple(range(10))


def _colours(number: int) -> tuple[int, ...]:
    """Return what becomes of each colour; 0, the background, stays."""
    others = list(range(1, 10))
    random.Random(f"grids {number}").shuffle(others)
    return (0, *others)


def _recoloured(grid: Grid, colours: Sequence[int]) -> Grid:
    return tuple(tuple(colours[cell] for cell in row) for row in grid)


def _changed(text: str, change: Callable[[Grid], Grid]) -> str:
    """Return a text with its grids changed, all else as it was."""
    lines = text.split("\n")
    for block in reversed(_blocks(text)):
        rows = [block.gap.join(map(str, row)) for row in change(block.grid)]
        labels = [*block.labels[:1], *[""] * (len(rows) - 1)]
        if len(rows) == len(block.labels):
            labels = list(block.labels)
        whole = [label + row for label, row in zip(labels, rows, strict=True)]
        lines[block.first : block.first + len(block.grid)] = whole
    return "\n".join(lines)


def _blocks(text: str) -> list[_Block]:
    """Return the grids of a text; a label begins a grid, and lines of one grid are alike long."""
    found: list[_Block] = []
    rows: list[tuple[int, ...]] = []
    labels: list[str] = []
    gap, first = " ", 0

    def close() -> None:
        if rows and (len(rows) > 1 or len(rows[0]) >= _LEAST_CELLS):
            found.append(_Block(first, tuple(rows), tuple(labels), gap))
        rows.clear()
        labels.clear()

    for number, line in enumerate(text.split("\n")):
        match = _LINE.match(line)
        cells = tuple(map(int, re.findall(r"\d", match["cells"]))) if match else ()
        if rows and (match is None or match["label"] or len(cells) != len(rows[0])):
            close()
        if match is None:
            continue
        if not rows:
            first = number
            gap = re.findall(r"\d([ ,]+)\d", match["cells"])[0]
        rows.append(cells)
        labels.append(f"{match['label'] or ''}{match['gap']}")
    close()
    return found
