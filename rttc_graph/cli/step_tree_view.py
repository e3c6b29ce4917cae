"""Trees of steps and graphs of thoughts drawn in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from rich.text import Text
from rich.tree import Tree

from rttc_graph.state import LedgerEntry

SHOWN_CHARACTERS = 70
"""Longest part of a step that is shown."""

Line = Callable[[Mapping[str, Any]], Text]
"""Function that returns a node of a tree in one line."""


def step_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the trees of steps that a run has grown, each for one arm, ready to be printed."""
    return _trees(ledger, "steps", "steps", _line)


def thought_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the graphs of thoughts of a run, each question below the one it was split from."""
    return _trees(ledger, "thoughts", "questions", _question)


def _trees(ledger: Sequence[LedgerEntry], key: str, what: str, line: Line) -> list[Tree]:
    return [
        _tree(str(entry["detail"].get("arm", "")), nodes, what, line)
        for entry in ledger
        if entry["event"] == "stopped"
        and (nodes := cast("list[dict[str, Any]]", entry["detail"].get(key)))
    ]


def _question(one: Mapping[str, Any]) -> Text:
    share = "   -" if one["p"] is None else f"{one['p']:.2f}"
    line = Text(f"{one['node']} P {share} ", style="cyan").append(
        _cut(one["question"]), style="default"
    )
    line.append(f" {_cut(one['answer'])}", style="green")
    marks = [f"{one['tokens']} tokens", one["status"]]
    if one["needs"]:
        marks.append(f"needs {', '.join(map(str, one['needs']))}")
    if one["why"]:
        marks.append(str(one["why"]))
    return line.append(f"  [{'; '.join(marks)}]", style="dim")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _tree(arm: str, nodes: Sequence[Mapping[str, Any]], what: str, line: Line) -> Tree:
    tokens = sum(int(node["tokens"]) for node in nodes)
    whole = Tree(Text(f"{arm}: {len(nodes)} {what}, {tokens} tokens", style="bold"))
    branches: dict[int | None, Tree] = {None: whole}
    for node in nodes:  # a parent stands before its children
        branches[node["node"]] = branches[node["parent"]].add(line(node))
    return whole


def _line(step: Mapping[str, Any]) -> Text:
    share = "   -" if step["p"] is None else f"{step['p']:.2f}"
    shown = _cut(str(step["step"])) or "(end)"
    line = Text(f"P {share} ", style="cyan").append(shown, style="default")
    marks = [f"{step['tokens']} tokens"]
    if step["look"]:
        marks.append("look")
    if step["answer"] is not None:
        marks.append(f"answer {step['answer']}")
    return line.append(f"  [{', '.join(marks)}]", style="dim")
