"""Dependencies point one way; the imports are read from the source, not made."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "rttc_graph": "rttc_graph",
    "rttc_graph.integrations": "integrations",
    "rttc_graph.migrations": "migrations",
    "rttc_graph.nodes": "nodes",
}

CONTRACTS = {
    "errors": set[str](),
    "settings": {"errors"},
    "state": {"errors"},
    "protocols": {"settings", "state"},
}
"""What each contract may know of ours: nothing above it."""

CORE = (
    "adapters",
    "answering",
    "budget",
    "ledger",
    "policies",
    "prompts",
    "recalling",
    "scope",
    "survival",
    "thinking",
    "training_gate",
)
"""What nodes are made of; between the contracts and the nodes."""

TOP = ("graph", "nodes", "integrations", "cli", "__main__", "local", "config")
ALLOWED_VENDORS = {"langchain_core", "langgraph", "pydantic", "typing_extensions"}


def modules() -> dict[str, ast.Module]:
    """Return every module of ours by its import name."""
    found: dict[str, ast.Module] = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *inner]).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(tree: ast.Module) -> set[str]:
    """Return the first part, below the package, of each import of ours."""
    return {name.split(".")[1] for name in imports(tree) if name.startswith("rttc_graph.")}


def within(*parts: str) -> list[str]:
    """Return the modules in these parts of the package."""
    return sorted(name for name in MODULES if name.split(".")[1:2] and name.split(".")[1] in parts)


def test_the_source_is_found() -> None:
    assert len(within("nodes")) >= 6
    assert len(within("integrations")) >= 10
    assert [part for part in (*CONTRACTS, *CORE) if not within(part)] == []


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_knows_nothing_of_ours_above_it(name: str) -> None:
    assert ours(MODULES[f"rttc_graph.{name}"]) - CONTRACTS[name] == set()


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_neither_nodes_nor_vendors_nor_the_command_line(name: str) -> None:
    assert ours(MODULES[f"rttc_graph.{name}"]) & set(TOP) == set()


@pytest.mark.parametrize("name", within("nodes"))
def test_nodes_know_only_contracts_and_core(name: str) -> None:
    assert ours(MODULES[name]) - CONTRACTS.keys() - set(CORE) == set()


@pytest.mark.parametrize("name", within("integrations"))
def test_integrations_know_neither_nodes_nor_graph_nor_the_command_line(name: str) -> None:
    assert ours(MODULES[name]) & set(TOP) <= {"integrations"}


def test_the_graph_joins_nodes_and_knows_no_integration() -> None:
    assert ours(MODULES["rttc_graph.graph"]) & set(TOP) == {"nodes"}


@pytest.mark.parametrize("name", [*within(*CONTRACTS, *CORE, "nodes", "graph"), "rttc_graph"])
def test_the_core_needs_no_extra(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert roots - sys.stdlib_module_names - ALLOWED_VENDORS - {"rttc_graph"} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_our_folders_are_imported_under_the_package(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert roots & {"nodes", "integrations", "migrations", "tests"} == set()


def packages() -> list[str]:
    return sorted(
        name
        for name in MODULES
        if any(other.startswith(f"{name}.") for other in MODULES) and name != "rttc_graph"
    )


@pytest.mark.parametrize("name", packages())
def test_a_package_imports_nothing_optional_by_itself(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert roots - sys.stdlib_module_names - ALLOWED_VENDORS - {"rttc_graph"} == set()
    assert ast.get_docstring(MODULES[name])
