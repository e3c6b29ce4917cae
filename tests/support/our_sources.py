"""Our source files, for tests that read them instead of running them; each is parsed once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "rttc_graph": "rttc_graph",
    "rttc_graph.integrations": "integrations",
    "rttc_graph.migrations": "migrations",
    "rttc_graph.nodes": "nodes",
}
"""Our packages at the top, and the folder of each."""


def import_name(path: Path) -> str:
    """Return the dotted name that a file of ours is imported by."""
    for package, folder in FOLDERS.items():
        if path.is_relative_to(ROOT / folder):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            return ".".join([package, *inner]).removesuffix(".__init__")
    raise ValueError(f"{path} lies in none of our folders")


SOURCES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py"))
"""`rglob` does not follow the links inside `rttc_graph`, so that each file is here once."""

MODULES = {import_name(path): path for path in SOURCES}
"""File of each module, by its import name."""


def relative(path: Path) -> str:
    """Return a path as from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a file as parsed; nobody may change the tree.

    Python 3.11 counts the depth of all parses together: one beside another thread's may fail.
    """
    text = path.read_text(encoding="utf-8")
    for _ in range(20):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return every node of a file's tree."""
    return tuple(ast.walk(tree_of(path)))
