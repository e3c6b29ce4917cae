"""MkDocs hooks: pages that are made while the site is built, and links that leave docs/."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import commands_page, python_pages, routes_page, settings_page

ROOT = Path(__file__).resolve().parents[2]

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/decisions": "decisions/index.md",
}
"""Files outside of docs/ that have a page, by their path in the repository."""

_ORIGIN = {page: path for path, page in OUTSIDE.items() if path.endswith(".md")}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_GRAPH = "![The state machine](pictures/state-machine.svg)"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add what is listed by the code itself to the navigation."""
    sections: list[dict[str, Any]] = cast("Any", config.nav) or []
    for section in sections:
        if "Reference" in section:
            python: list[Any] = [{name: page} for name, page in _python_entries()]
            section["Reference"].append({"Python": python})
        if "How it is built" in section:
            section["How it is built"].append(
                {"Each decision": [f"decisions/{path.name}" for path in decisions()]}
            )
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and a page for each source file that a page links to."""
    made = {page: (ROOT / path).read_text(encoding="utf-8") for page, path in _ORIGIN.items()}
    made |= {
        "decisions/index.md": decisions_page(),
        "reference/settings.md": settings_page(),
        "reference/commands.md": commands_page(),
        "reference/routes.md": routes_page(),
    }
    made |= {f"reference/python/{name}.md": text for name, text in python_pages().items()}
    texts = dict(made)
    texts |= {
        file.src_uri: Path(file.abs_src_path).read_text(encoding="utf-8")
        for file in files.documentation_pages()
        if file.abs_src_path
    }
    for page, text in texts.items():
        for path in _links_outside(page, text):
            made[site_page(path)] = source_page(path)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the pages made of their targets; draw the graph."""
    del config, files
    uri = page.file.src_uri

    def there(match: re.Match[str]) -> str:
        path = repository_path(uri, match[2])
        if path is None:
            return match[0]
        return match[1] + _relative(site_page(path), uri) + match[3]

    parts = _FENCE.split(markdown)
    picture = _LINK.sub(lambda m: m[1] + _relative(m[2], uri) + m[3], _GRAPH)
    return "".join(
        (picture if part.lstrip().startswith("```mermaid") else part)
        if place % 2
        else _LINK.sub(there, part)
        for place, part in enumerate(parts)
    )


def decisions() -> list[Path]:
    """Return the files of decisions, by number."""
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def decisions_page() -> str:
    """Return the list of decisions, by their titles."""
    lines = ["# Decisions", ""]
    for path in decisions():
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def repository_path(page: str, target: str) -> str | None:
    """Return where a link of a page leads in the repository; `None` for one to somewhere else.

    Args:
        page: The page's path in the site's sources.
        target: What the link says, without its anchor.
    """
    if "://" in target or target.startswith(("mailto:", "#", "/")):
        return None
    origin = _ORIGIN.get(page, f"docs/{page}")
    if page.startswith("source/"):
        origin = page.removeprefix("source/").removesuffix(".page.md")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path if (ROOT / path).exists() else None


def site_page(path: str) -> str:
    """Return the page, or the file, of the site that shows a file of the repository."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}.page.md"


def source_page(path: str) -> str:
    """Return the page of a file or folder outside of docs/."""
    whole = ROOT / path
    if whole.is_dir():
        names = sorted(p.name for p in whole.iterdir() if p.is_file())
        return f"# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = whole.read_text(encoding="utf-8")
    if whole.suffix == ".md":
        return text
    return f"# {path}\n\n````{whole.suffix.lstrip('.')}\n{text}````\n"


def _links_outside(page: str, text: str) -> Iterator[str]:
    """Yield the files outside of docs/ that have no page yet and that a page links to."""
    for match in _LINK.finditer(_FENCE.sub("", text)):
        path = repository_path(page, match[2])
        if path is not None and path not in OUTSIDE and not path.startswith("docs/"):
            yield path


def _python_entries() -> list[tuple[str, str]]:
    return [(name, f"reference/python/{name}.md") for name in python_pages()]


def _relative(target: str, page: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
