"""The folders nodes/, integrations/ and migrations/ are imported under rttc_graph."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
PROJECT = PYPROJECT["project"]
LINKS = ("integrations", "migrations", "nodes")


def source_packages() -> set[str]:
    """Import names that the folders on disk call for; rglob does not descend into links."""
    found: set[str] = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            found.add(".".join([package, *inner.parts]))
    return found


def test_every_package_on_disk_is_declared_once() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(source_packages())


@pytest.mark.parametrize("name", SETUPTOOLS["packages"])
def test_a_declared_package_imports(name: str) -> None:
    importlib.import_module(name)


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools leaves out modules beside which there is no `__init__.py`."""
    folders = {
        p.parent for f in SETUPTOOLS["package-dir"].values() for p in (ROOT / f).rglob("*.py")
    }
    assert [f for f in sorted(folders) if not (f / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", LINKS)
def test_a_link_stands_for_its_folder(name: str) -> None:
    link = ROOT / "rttc_graph" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


def test_every_file_that_is_no_module_is_packaged() -> None:
    """SQL, type marker and the like, which setuptools packages only by name."""
    left_out: list[str] = []
    for package, folder in SETUPTOOLS["package-dir"].items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            inside = ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
            patterns = SETUPTOOLS["package-data"].get(inside, [])
            if not any(path.match(pattern) for pattern in patterns):
                left_out.append(str(path.relative_to(ROOT)))
    assert left_out == []


def test_coverage_counts_the_real_folders() -> None:
    """It leaves out packages that it meets as links, silently."""
    folders = sorted(SETUPTOOLS["package-dir"].values())
    assert sorted(PYPROJECT["tool"]["coverage"]["run"]["source"]) == folders


def requirements() -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        texts.extend(extra)
    return [Requirement(text) for text in texts]


def test_the_extra_all_has_every_extra_that_a_user_may_want() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = [Requirement(text) for text in extras["all"]]
    not_in_it = {"ray", "all", "bench", "dev", "docs", "puzzles", "quantized", "studio"}
    assert everything.extras == extras.keys() - not_in_it


def pins() -> dict[str, str]:
    """Return the version of each package in `constraints.txt`."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line):
            name = canonicalize_name(match[1])
            assert name not in found, f"{name} is pinned twice"
            found[name] = match[2]
    return found


HAS_PINS = pytest.mark.skipif(
    not (ROOT / "constraints.txt").exists(), reason="there is no constraints.txt"
)


@HAS_PINS
def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    versions, wrong = pins(), list[str]()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            continue
        if not requirement.specifier.contains(versions.get(name, ""), prereleases=True):
            wrong.append(f"{requirement}, pinned: {versions.get(name)}")
    assert wrong == []


@HAS_PINS
def test_pins_are_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.strip() and not line.startswith(("#", "--"))]
    assert [line for line in told if "==" not in line] == []
