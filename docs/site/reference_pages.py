"""Reference pages, made from the code each time the site is built."""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from pydantic.fields import FieldInfo

from rttc_graph.cli.app import whole_command
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.samples.corrections import Corrections
from rttc_graph.serving.http_app import ServedParts, create_app
from rttc_graph.settings import RttcSettings
from rttc_graph.testing import MemoryKnowledgeBase

ROOT = Path(__file__).resolve().parents[2]

MODULES = {
    "Graph, settings, state": [
        *("rttc_graph.graph", "rttc_graph.settings", "rttc_graph.state"),
        *("rttc_graph.arms", "rttc_graph.errors"),
    ],
}
"""Pages of Python classes that are not one package each, with their modules."""

PACKAGES = ("protocols", "installation", "search", "serving", "testing", "integrations")
"""Packages whose modules have a page for each folder."""


def settings_page() -> str:
    """Return the tables of all settings: of a run, and of an installation."""
    run = RttcSettings.model_fields
    own = {n: f for n, f in InstallationConfig.model_fields.items() if n not in run}
    return "\n".join(
        [
            "# Settings",
            "",
            "Each is a key of `rttc.toml` and, in capitals behind `RTTC_`, a variable of the "
            "environment; settings of a run are also fields of `RttcSettings`, given as `context`, "
            "and of `rttc` in a request to `/v1`.",
            "",
            "## Settings of a run",
            "",
            *_settings_table(run),
            "",
            "## Settings of an installation",
            "",
            *_settings_table(own),
            "",
        ]
    )


def _settings_table(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield "| setting | type | default | bounds | what it does |"
    yield "| --- | --- | --- | --- | --- |"
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        bounds = ", ".join(_bound(part) for part in field.metadata if _bound(part))
        shown = (type_words(field.annotation), default_words(default), bounds)
        yield f"| `{name}` | {' | '.join(map(_cell, shown))} | {_cell(field.description or '')} |"


def _bound(part: object) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    words = {"min_length": "at least", "max_length": "at most"}
    found = [f"{sign} {getattr(part, name)}" for name, sign in signs.items() if hasattr(part, name)]
    found += [f"{word} {getattr(part, n)} long" for n, word in words.items() if hasattr(part, n)]
    return ", ".join(found)


def type_words(annotation: Any) -> str:
    """Return a type as a reader would write it."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return type_words(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "yes or no"}.get(
        getattr(annotation, "__name__", str(annotation)), getattr(annotation, "__name__", "text")
    )


def default_words(default: Any) -> str:
    """Return a default as `rttc.toml` has it."""
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return "`true`" if default else "`false`"
    if isinstance(default, (int, float)):
        return f"`{default}`"
    if isinstance(default, (str, Path)):
        return f'`"{default}"`'
    return "a table"


def commands(command: Any, path: str = "rttc") -> Iterator[tuple[str, Any]]:
    """Yield each command of the tree with its path, groups before their commands."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")


def commands_page() -> str:
    """Return each command with its options, as `--help` has them."""
    lines = ["# Commands", "", "Flags of `rttc` stand before the command's name.", ""]
    for path, command in commands(whole_command()):
        lines += [f"## {path}", ""]
        text = "\n\n".join(part.strip() for part in (command.help or "").split("\n\n"))
        for part in text.split("\n\n"):
            is_example = part.startswith("Example")
            lines += [f"```text\n{part}\n```" if is_example else _escaped(part), ""]
        lines += [*_options_table(command), ""]
    return "\n".join(lines)


def _options_table(command: Any) -> Iterator[str]:
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    if not shown:
        return
    yield "| argument | what it does |"
    yield "| --- | --- |"
    for parameter in shown:
        is_option = parameter.param_type_name == "option"
        names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name]
        text = _cell(parameter.help or "")
        if getattr(parameter, "show_default", False) and parameter.default not in (None, False):
            text += f" Default: `{parameter.default}`."
        words = ", ".join(f"`{name if is_option else name.upper()}`" for name in names)
        yield f"| {words} | {text} |"


def routes_page() -> str:
    """Return each route of a server that serves everything, from its OpenAPI document."""
    embedder = LangChainEmbedder(DeterministicFakeEmbedding(size=8), name="none")
    knowledge_base = MemoryKnowledgeBase()
    nobody = cast("Any", None)  # routes are listed, and none is called
    served = ServedParts(
        parts={
            "policy_model": ChatPolicyModel(FakeListChatModel(responses=[""])),
            "reward_model": SelfConfidence(),
            "embedder": embedder,
            "knowledge_base": knowledge_base,
        },
        knowledge_base=knowledge_base,
        embedder=embedder,
        corrections=Corrections(ratings=nobody, knowledge_base=knowledge_base, embedder=embedder),
    )
    document = create_app(served).openapi()
    lines = ["# HTTP routes", "", "`rttc serve` offers them; `/openapi.json` is the whole schema."]
    lines += ["", "| route | what it does | takes | needs a key |", "| --- | --- | --- | --- |"]
    for path, item in sorted(document["paths"].items()):
        for method, operation in item.items():
            does = operation.get("description") or operation.get("summary") or ""
            first = _cell(does.split("\n\n")[0])
            key = "yes" if operation.get("security") else "no"
            takes = _body_name(operation)
            lines.append(f"| `{method.upper()} {path}` | {first} | {takes} | {key} |")
    lines += ["", "## Bodies", "", *_bodies(document)]
    return "\n".join(lines) + "\n"


def _body_name(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    return f"[{name}](#{name.lower()})" if name else ""


def _bodies(document: Mapping[str, Any]) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    named = {
        _body_name(operation).partition("]")[0].lstrip("[")
        for item in document["paths"].values()
        for operation in item.values()
    }
    for name in sorted(named - {""}):
        yield from (f"### {name} {{: #{name.lower()} }}", "")
        required = schemas[name].get("required", [])
        yield "| key | required | what it is |"
        yield "| --- | --- | --- |"
        for key, field in schemas[name].get("properties", {}).items():
            text = _cell(field.get("description") or field.get("title") or "")
            yield f"| `{key}` | {'yes' if key in required else 'no'} | {text} |"
        yield ""


def python_pages() -> dict[str, str]:
    """Return the pages of public classes, by title: mkdocstrings fills them."""
    pages = {title: _python_page(title, modules) for title, modules in MODULES.items()}
    for package in PACKAGES:
        for folder, modules in _folders(package):
            pages[folder] = _python_page(folder, modules)
    return pages


def _folders(package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder of a package with its modules that have public classes or functions."""
    start = ROOT / "rttc_graph" / package
    folders = [start, *sorted(p for p in start.rglob("*") if p.is_dir())]
    for folder in folders:
        modules = [
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in sorted(folder.glob("[a-z]*.py"))
            if _has_public_classes(path)
        ]
        if modules:
            yield ".".join(folder.relative_to(ROOT / "rttc_graph").parts), modules


def _has_public_classes(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.ClassDef) and node.name[0] != "_" for node in body)


def _python_page(title: str, modules: Iterable[str]) -> str:
    options = "    options: {show_root_heading: false}\n"
    blocks = [f"## {module}\n\n::: {module}\n{options}" for module in modules]
    return f"# {title}\n\n" + "\n".join(blocks)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return a text in which `<` is no tag and a line of ours is no list."""
    return text.replace("<", "&lt;")
