"""What can be imported from `rttc_graph`, and that all of it says what it is."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from types import ModuleType

import pytest
from our_sources import SOURCES, nodes_of, relative, tree_of

import rttc_graph
from rttc_graph import testing


def test_the_names_are_sorted_and_there() -> None:
    names = list(rttc_graph.__all__)
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(rttc_graph, name)] == []


def test_nothing_else_looks_public() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(rttc_graph.__path__)}
    imported = {
        name
        for name, value in vars(rttc_graph).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert imported - submodules == set(rttc_graph.__all__)


@pytest.mark.parametrize("name", rttc_graph.__all__)
def test_a_public_name_says_what_it_is(name: str) -> None:
    public = getattr(rttc_graph, name)
    doc = public.__dict__.get("__doc__") if inspect.isclass(public) else public.__doc__
    assert doc, f"{name} has no docstring of its own"
    assert doc.splitlines()[0].endswith("."), f"the first line about {name} is no sentence"


Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(owner: ast.Module | ast.ClassDef) -> list[str]:
    """Return the public classes and functions in a module that have no docstring."""
    found = [] if ast.get_docstring(owner) else [getattr(owner, "name", "the module")]
    for node in owner.body:
        if not isinstance(node, Documented) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            found.extend(undocumented(node))
        elif "override" not in map(ast.unparse, node.decorator_list) and not ast.get_docstring(
            node
        ):
            found.append(node.name)
    return found


def test_every_public_name_of_a_module_is_documented() -> None:
    # The names of the tests in a contract suite say what they hold.
    explained = [path for path in SOURCES if path.parent.name != "testing"]
    assert {relative(p): found for p in explained if (found := undocumented(tree_of(p)))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(): ...", ["the module", "f"]),
        ('"""A module."""\nclass C:\n    """A class."""\n    def m(self): ...', ["m"]),
        ('"""A module."""\nclass C:\n    def _m(self): ...\ndef _f(): ...', ["C"]),
    ],
)
def test_a_missing_docstring_is_found(text: str, found: list[str]) -> None:
    assert undocumented(ast.parse(text)) == found


def private_imports(nodes: Iterable[ast.AST]) -> list[str]:
    """Return underscore names that a module takes from other modules, ours or a vendor's."""
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            names = [*path, *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        else:
            continue
        found.extend(n for n in names if n.startswith("_") and not n.startswith("__"))
    return found


def test_no_module_uses_anothers_private_names() -> None:
    assert {relative(p): found for p in SOURCES if (found := private_imports(nodes_of(p)))} == {}


@pytest.mark.parametrize("line", ["from a._b import c", "from a import _c", "import a._b"])
def test_a_private_import_is_found(line: str) -> None:
    assert private_imports(ast.walk(ast.parse(line)))


def test_importing_the_package_is_cheap() -> None:
    """Neither torch nor a driver comes with it, so that a host without our extras can use it."""
    heavy = "torch transformers peft psycopg pgvector datasets pyarrow typer matplotlib numpy"
    assert imported_by("import rttc_graph", heavy) == []


FACES = "import rttc_graph.cli.app, rttc_graph.installation.ask_question, rttc_graph.serving.server"


def test_asking_and_serving_need_no_statistics() -> None:
    """They apply maps; scikit-learn fits them, and takes a second to import."""
    calibrated = "rttc_graph.integrations.rewards.calibrated.calibrated_reward"
    assert imported_by(f"{FACES}, {calibrated}", "scipy sklearn matplotlib") == []


def test_the_parts_for_tests_need_no_pytest() -> None:
    hidden = "sys.modules['pytest'] = None; import rttc_graph.testing as parts"
    used = "parts.MemoryKnowledgeBase(), parts.MemoryLedgerStore(), parts.candidate('a')"
    assert imported_by(f"{hidden}; {used}", "_pytest blockbuster") == []


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_part_for_tests_is_there(name: str) -> None:
    assert getattr(testing, name)


def test_a_part_for_tests_that_is_unknown_is_an_attribute_error() -> None:
    assert not hasattr(testing, "NoSuchContract")


def imported_by(statement: str, modules: str) -> list[str]:
    """Return which modules a statement has imported in a fresh process."""
    script = (
        f"import sys; {statement}; print(*(m for m in {modules.split()!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.split()
