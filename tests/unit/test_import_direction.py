"""Dependencies point one way: the table in `docs/architecture.md`, held against every import.

The imports are read from the source, not made.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from functools import cache

import pytest
from our_sources import FOLDERS, MODULES, ROOT, nodes_of, tree_of

CONTRACTS = frozenset({"arms", "errors", "settings", "state", "protocols", "support"})
CORE = frozenset({*CONTRACTS, "run", "search", "nodes", "graph", "rttc_graph", "moved_modules"})
"""Rooms that work without any extra."""

ALLOWED_VENDORS = {"langchain_core", "langgraph", "pydantic", "pydantic_core", "typing_extensions"}


PACKAGES = {
    ".".join([package, *path.relative_to(ROOT / folder).parent.parts])
    for package, folder in FOLDERS.items()
    for path in (ROOT / folder).rglob("__init__.py")
}


def table_of_rooms() -> dict[str, frozenset[str]]:
    """Return the rooms of the documented table, each with the rooms that it may import."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("<!-- rooms:begin -->")[2].partition("<!-- rooms:end -->")[0]
    rooms: dict[str, frozenset[str]] = {}
    for row in table.strip().splitlines()[2:]:
        _, room, _, may_import, _ = (cell.strip() for cell in row.split("|"))
        named = frozenset(re.findall(r"`([\w.]+)`", may_import))
        rooms[room.strip("`")] = named if may_import.startswith("only") else named | CONTRACTS
    return rooms


ROOMS = table_of_rooms()


def room_of(module: str) -> str:
    """Return the room that a module lives in: its package, or itself at the top."""
    inner = module.removeprefix("rttc_graph").lstrip(".")
    if module in PACKAGES:
        return inner or "rttc_graph"
    return inner.rpartition(".")[0] or inner


def imported_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the dotted names that a module imports, also inside functions."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_covered(room: str, by: frozenset[str]) -> bool:
    """Tell whether a room, or one that it lies in, is among those named."""
    return any(room == named or room.startswith(f"{named}.") for named in by)


@cache
def imported_by(module: str) -> frozenset[str]:
    """Return the dotted names that a module of ours imports."""
    return frozenset(imported_names(nodes_of(MODULES[module])))


def roots(module: str) -> set[str]:
    """Return the packages at the top that a module of ours imports from."""
    return {imported.split(".")[0] for imported in imported_by(module)}


def forbidden_rooms(module: str, imported: Iterable[str]) -> set[str]:
    """Return the rooms that a module imports although its own room may not."""
    own = room_of(module)
    reached = {room_of(name) for name in imported if name in MODULES}
    return {
        room
        for room in reached - {own, "rttc_graph"}
        if not is_covered(room, ROOMS.get(own, frozenset()))
    }


def missing_rooms(modules: Iterable[str]) -> set[str]:
    """Return the rooms that the table leaves out."""
    return {room_of(name) for name in modules} - ROOMS.keys()


def test_every_room_is_in_the_table_and_no_other() -> None:
    assert missing_rooms(MODULES) == set()
    assert ROOMS.keys() - {room_of(name) for name in MODULES} == set()


def test_a_room_that_is_missing_from_the_table_is_noticed() -> None:
    assert missing_rooms({*MODULES, "rttc_graph.attic"}) == {"attic"}


def test_the_table_names_only_rooms_that_are_there() -> None:
    assert {named for may_import in ROOMS.values() for named in may_import} <= ROOMS.keys()


def test_a_module_imports_only_what_its_room_may() -> None:
    found = {name: forbidden_rooms(name, imported_by(name)) for name in MODULES}
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


@pytest.mark.parametrize(
    ("module", "line", "caught"),
    [
        (
            "rttc_graph.integrations.remote.remote_knowledge_base",
            "from rttc_graph.installation.knowledge import open_knowledge",
            "installation",
        ),
        (
            "rttc_graph.integrations.lora.lora_trainer",
            "import rttc_graph.serving.http_app",
            "serving",
        ),
        (
            "rttc_graph.evaluation.replay",
            "from rttc_graph.integrations.postgres import database",
            "integrations.postgres",
        ),
        ("rttc_graph.samples.rows", "from rttc_graph.cli import screen", "cli"),
        (
            "rttc_graph.run.policies",
            "def late():\n    from rttc_graph.serving.http_app import create_app",
            "serving",
        ),
        ("rttc_graph.jobs.collect_rows", "from rttc_graph.cli.screen import out", "cli"),
    ],
)
def test_an_import_against_the_table_is_caught(module: str, line: str, caught: str) -> None:
    assert forbidden_rooms(module, imported_names(ast.walk(ast.parse(line)))) == {caught}


def optional(module: str) -> set[str]:
    """Return the packages of extras that a module imports from."""
    return roots(module) - sys.stdlib_module_names - ALLOWED_VENDORS - {"rttc_graph"}


def test_the_core_needs_no_extra() -> None:
    core = [name for name in MODULES if room_of(name) in CORE]
    assert {name: needed for name in core if (needed := optional(name))} == {}
    assert optional("rttc_graph.integrations.lora.lora_trainer")


def test_our_folders_are_imported_under_the_package() -> None:
    folders = {"nodes", "integrations", "migrations", "tests"}
    assert {name: found for name in MODULES if (found := roots(name) & folders)} == {}


def test_a_package_imports_nothing_optional_by_itself() -> None:
    packages = PACKAGES - {"rttc_graph"}
    assert {name: needed for name in packages if (needed := optional(name))} == {}
    assert [name for name in packages if not ast.get_docstring(tree_of(MODULES[name]))] == []


def python_files(package: str) -> list[str]:
    """Return the modules of a package, without those of its packages and its `__init__`."""
    return [name for name in MODULES if name.rpartition(".")[0] == package and name not in PACKAGES]


def test_no_room_is_too_large_to_look_over() -> None:
    sizes = {name: len(python_files(name)) for name in PACKAGES}  # and its `__init__` each
    limits = {"rttc_graph": 12}
    assert {name: size for name, size in sizes.items() if size >= limits.get(name, 15)} == {}


def test_no_two_modules_have_the_same_name() -> None:
    """A name that means two things sends its reader to the wrong file."""
    names = [name.rpartition(".")[2] for name in MODULES if name not in PACKAGES]
    assert sorted({name for name in names if names.count(name) > 1}) == []
