"""Docstrings say what a thing is: none begins with a word that points at something unsaid."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

import pytest
from our_sources import SOURCES, nodes_of, relative

UNSAID = re.compile(r"(Of|By|The same|Likewise|Whose|From where)\b")
PUZZLE = re.compile(r"(What|How|Which|Who)\b")
"""Beginnings that a field or a constant must not have: they ask instead of naming it."""
ARGUMENT = re.compile(r"^\s+\w+: (?:Of|By|The same|Likewise|Whose|From where)\b.*$", re.MULTILINE)


def docstrings(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str, bool]]:
    """Yield line, text, and whether it describes a field or a constant, of every docstring."""
    for node in nodes:
        body: list[ast.stmt] | None = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        before: ast.AST | None = None
        for statement in body:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                is_field = isinstance(before, (ast.Assign, ast.AnnAssign))
                yield statement.lineno, statement.value.value.strip(), is_field
            before = statement


def problems(nodes: Iterable[ast.AST]) -> list[str]:
    """Return the lines of a file's docstrings that begin with a word they must not begin with."""
    found: list[str] = []
    for line, doc, is_field in docstrings(nodes):
        if UNSAID.match(doc) or (is_field and PUZZLE.match(doc)):
            found.append(f"line {line}: {doc.splitlines()[0]}")
        found += [f"line {line}: {bad.strip()}" for bad in ARGUMENT.findall(doc)]
    return found


def test_a_docstring_says_what_the_thing_is() -> None:
    assert {relative(p): found for p in SOURCES if (found := problems(nodes_of(p)))} == {}


@pytest.mark.parametrize(
    "doc",
    [
        '"""Of the model."""',
        'seed: int = 0\n"""By the draw."""',
        'seed: int = 0\n"""What draws."""',
        'def f(x):\n    """Do.\n\n    Args:\n        x: Of the model.\n    """',
        'class C:\n    """The same again."""',
    ],
)
def test_a_fragment_is_found(doc: str) -> None:
    assert problems(ast.walk(ast.parse(doc)))


@pytest.mark.parametrize(
    "doc", ['"""What a module is for."""', 'seed: int = 0\n"""Seed of the draw."""']
)
def test_a_plain_docstring_passes(doc: str) -> None:
    assert not problems(ast.walk(ast.parse(doc)))
