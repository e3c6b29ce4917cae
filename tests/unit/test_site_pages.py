"""The site's reference is made from the code, and the site builds without a warning."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import rttc_graph
from rttc_graph.cli.app import app
from rttc_graph.installation.config import InstallationConfig

SITE = Path(__file__).parents[2] / "docs" / "site"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """Return the module that makes the reference pages."""
    spec = importlib.util.spec_from_file_location("reference_pages", SITE / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_has_a_row_with_its_words(pages: ModuleType) -> None:
    text = pages.settings_page()
    for name, field in InstallationConfig.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        first_word = (field.description or "").split()[0]
        assert first_word in row
    assert "| `tau_r` | number | `0.5` | ≥ 0, ≤ 1 |" in text


def test_every_command_has_its_options(pages: ModuleType) -> None:
    text = pages.commands_page()
    found = dict(pages.commands(typer.main.get_command(app)))
    assert "rttc kb ingest" in found
    for path, command in found.items():
        section = text.partition(f"## {path}\n")[2].partition("\n## ")[0]
        options = [p for p in command.params if not getattr(p, "hidden", False)]
        names = [p.opts[0] for p in options if p.opts[0].startswith("--") and p.name != "help"]
        assert [name for name in names if f"`{name}`" not in section] == [], path


def test_every_route_is_listed_with_its_body(pages: ModuleType) -> None:
    text = pages.routes_page()
    for route in ("POST /v1/chat/completions", "POST /rttc/invoke", "POST /kb/search", "GET /"):
        assert f"| `{route}` |" in text
    assert "[Feedback](#feedback)" in text
    assert "### Feedback {: #feedback }" in text


def test_public_classes_have_a_page(pages: ModuleType) -> None:
    text = "\n".join(pages.python_pages().values())
    modules = {getattr(rttc_graph, name).__module__ for name in rttc_graph.__all__}
    modules.add("rttc_graph.integrations.langchain.chat_policy_model")
    assert {m for m in modules if f"::: {m}\n" not in text} <= {"builtins", "typing"}


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs rttc-graph[docs]")
def test_the_site_builds_and_asks_nothing_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: ModuleType
) -> None:
    """Classes and the index for the search are left out, which take most of `make docs`."""
    building: Any = importlib.import_module("mkdocs.commands.build")
    configuring: Any = importlib.import_module("mkdocs.config")

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.setitem(sys.modules, "reference_pages", pages)
    monkeypatch.setattr(pages, "python_pages", lambda: {"protocols": "# protocols\n"})
    config = configuring.load_config(str(SITE / "mkdocs.yml"), site_dir=str(tmp_path), plugins=[])
    building.build(config)
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    wanted = {"index.html", "operations.html", "reference/settings.html", "decisions/index.html"}
    assert wanted | {"source/examples/subgraph.py.page.html"} <= made
    fetched = re.compile(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+="https?://')
    assert [name for name in made if fetched.search((tmp_path / name).read_text())] == []
