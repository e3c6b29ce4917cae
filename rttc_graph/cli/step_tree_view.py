"""Trees of steps and graphs of thoughts drawn in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from rich.text import Text
from rich.tree import Tree

from rttc_graph.state import LedgerEntry

SHOWN_CHARACTERS = 70
"""Longest part of a step that is shown."""

Node = Mapping[str, Any]
"""Step or question as a ledger has it."""

Line = Callable[[Node], Text]
"""Function that returns a node of a tree in one line."""


def step_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the trees of steps that a run has grown, each for one arm, ready to be printed."""
    return _trees(ledger, "steps", "steps", _line, _steps_of_kept)


def thought_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the graphs of thoughts of a run, each question below the one it was split from."""
    return _trees(ledger, "thoughts", "questions", _question, _questions_of_kept)


def _trees(
    ledger: Sequence[LedgerEntry],
    key: str,
    what: str,
    line: Line,
    of_kept: Callable[[Sequence[Node], int | None], Collection[int]],
) -> list[Tree]:
    return [
        _tree(detail.get("arm", ""), nodes, what, line, of_kept(nodes, detail.get("kept")))
        for entry in ledger
        if entry["event"] == "stopped"
        and (nodes := cast("list[dict[str, Any]]", (detail := entry["detail"]).get(key)))
    ]


def _steps_of_kept(steps: Sequence[Node], kept: int | None) -> Collection[int]:
    """Return the steps of the answer that was kept; none in a ledger that does not tell it."""
    found = set[int]()
    if kept is None:
        return found
    at: int | None = next((step["node"] for step in steps if step["answer"] == kept), None)
    while at is not None:
        found.add(at)
        at = steps[at]["parent"]
    return found


def _questions_of_kept(questions: Sequence[Node], kept: int | None) -> Collection[int]:
    """Return the question whose answer was kept, and all whose answers led to it."""
    found, waiting = set[int](), [0] if kept is not None else []
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += questions[at]["known"]
    return found


def _question(one: Node) -> Text:
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


def _tree(arm: str, nodes: Sequence[Node], what: str, line: Line, kept: Collection[int]) -> Tree:
    tokens = sum(int(node["tokens"]) for node in nodes)
    whole = Tree(Text(f"{arm}: {len(nodes)} {what}, {tokens} tokens", style="bold"))
    branches: dict[int | None, Tree] = {None: whole}
    for node in nodes:  # a parent stands before its children
        shown = line(node)
        if node["node"] in kept:
            shown.append(" ✓", style="bold green")
        branches[node["node"]] = branches[node["parent"]].add(shown)
    return whole


def _line(step: Node) -> Text:
    share = "   -" if step["p"] is None else f"{step['p']:.2f}"
    shown = _cut(str(step["step"])) or "(end)"
    line = Text(f"P {share} ", style="cyan").append(shown, style="default")
    marks = [f"{step['tokens']} tokens"]
    if step["look"]:
        marks.append("look")
    if step["answer"] is not None:
        marks.append(f"answer {step['answer']}")
    return line.append(f"  [{', '.join(marks)}]", style="dim")
