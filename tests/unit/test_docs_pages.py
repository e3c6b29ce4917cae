"""Docs and README: pages are listed, links lead somewhere, and what they say to type exists."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from scripted_parts import Parts
from typed_commands import commands_in, problem

from rttc_graph import create_rttc_graph
from rttc_graph.arms import ARMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAVIGATION = (DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
PAGES = sorted(path for path in DOCS.rglob("*.md") if "site" not in path.parts)
READ = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *PAGES,
    *sorted((ROOT / "examples").rglob("*.md")),
]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HISTORY = ("CHANGELOG.md", "docs/experiments.md", "docs/decisions/")
"""Pages that tell of commands of their time, which may be gone."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *kinds: str) -> Iterator[str]:
    """Yield the fenced blocks of these kinds."""
    for match in FENCE.finditer(path.read_text(encoding="utf-8")):
        if match[1] in kinds:
            yield match[2]


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()).strip() for head in heads)
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


def test_each_page_is_in_the_navigation() -> None:
    places = [page.relative_to(DOCS).as_posix() for page in PAGES]
    listed = [place for place in places if not place.startswith("decisions/")]  # those are added
    assert [place for place in listed if f": {place}\n" not in NAVIGATION] == []


def dead_links(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    dead: list[str] = []
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(link)
    return dead


def test_links_lead_somewhere() -> None:
    assert {name(page): dead for page in READ if (dead := dead_links(page))} == {}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Head\n[a](#head) [b](#gone) [c](page.md) [d](gone.md) [e](page.md#gone)\n")
    assert dead_links(page) == ["#gone", "gone.md", "page.md#gone"]


def shell_lines(path: Path) -> Iterator[str]:
    """Yield the lines that a page says to type, of blocks and in its text."""
    for block in blocks(path, "console", "bash", "sh", ""):
        whole = re.sub(r"\\\n\s*", " ", block)
        is_session = whole.lstrip().startswith("$ ")
        lines = re.findall(r"^\$ (.*)$", whole, re.MULTILINE) if is_session else whole.splitlines()
        yield from (line for line in lines if re.search(r"(^|[ |;&])rttc ", line))
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    yield from re.findall(r"`(rttc [a-z-][^`]*)`", text)


def wrong_commands(page: Path) -> list[str]:
    lines = [words for line in shell_lines(page) for words in commands_in(line)]
    return [found for words in lines if (found := problem(words))]


def test_commands_and_flags_exist() -> None:
    pages = [page for page in READ if not name(page).startswith(HISTORY)]
    assert {name(page): wrong for page in pages if (wrong := wrong_commands(page))} == {}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rttc ask 'q' --domain a --tau 0.6", None),
        ("rttc --reward FOLDER ask 'q'", None),
        ("RTTC_K=4 rttc kb export - | rttc kb ingest -", None),
        ("rttc aks 'q'", "rttc has no command aks"),
        ("rttc kb ingset x", "rttc kb has no command ingset"),
        ("rttc ask q --tua 0.6", "rttc ask has no --tua"),
    ],
)
def test_a_wrong_command_is_found(line: str, found: str | None) -> None:
    assert next(filter(None, map(problem, commands_in(line))), None) == found


@pytest.mark.parametrize("page", [p for p in READ if list(blocks(p, "python"))], ids=name)
def test_python_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        # A top-level await is what a notebook allows.
        compile(block, page.name, "exec", flags=0x2000)


@pytest.mark.parametrize("page", [p for p in READ if list(blocks(p, "json", "toml"))], ids=name)
def test_json_and_toml_can_be_read(page: Path) -> None:
    for block in blocks(page, "toml"):
        tomllib.loads(block)
    for block in blocks(page, "json"):
        if "…" not in block:
            json.loads(block)


def test_the_picture_has_the_nodes_of_the_graph() -> None:
    picture = (DOCS / "pictures" / "state-machine.svg").read_text(encoding="utf-8")
    nodes = set(create_rttc_graph(**Parts().parts()).get_graph().nodes)
    assert {f">{node}<" in picture for node in nodes - {"__start__", "__end__"}} == {True}


def test_the_table_of_arms_has_each_attempt_with_its_place() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("\n## Arms\n")[2].partition("\n## ")[0]
    told: dict[str, int] = {}
    for arms, attempts in re.findall(r"^\| (`[^|]*`|) ?\| ([^|]*\d) \|", table, re.MULTILINE):
        names = re.findall(r"`(\w+)`", attempts) or re.findall(r"`(\w+)`", arms)
        told |= dict(zip(names, map(int, re.findall(r"\d+", attempts)), strict=True))
    assert told == {name: attempt.cost for name, attempt in ARMS.attempts.items()}
