"""Trees of steps and graphs of thoughts drawn in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich.text import Text
from rich.tree import Tree

from rttc_graph.state import LedgerEntry

SHOWN_CHARACTERS = 70
"""Longest part of a step that is shown."""


def step_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the trees of steps that a run has grown, each for one arm, ready to be printed."""
    return [
        _tree(str(entry["detail"].get("arm", "")), cast("list[dict[str, Any]]", steps))
        for entry in ledger
        if entry["event"] == "stopped" and (steps := entry["detail"].get("steps"))
    ]


def thought_trees(ledger: Sequence[LedgerEntry]) -> list[Tree]:
    """Return the graphs of thoughts of a run, each question below the one it was split from."""
    return [
        _thoughts(str(entry["detail"].get("arm", "")), cast("list[dict[str, Any]]", thoughts))
        for entry in ledger
        if entry["event"] == "stopped" and (thoughts := entry["detail"].get("thoughts"))
    ]


def _thoughts(arm: str, thoughts: Sequence[Mapping[str, Any]]) -> Tree:
    tokens = sum(int(one["tokens"]) for one in thoughts)
    whole = Tree(Text(f"{arm}: {len(thoughts)} questions, {tokens} tokens", style="bold"))
    branches: dict[int | None, Tree] = {None: whole}
    for one in thoughts:  # a question stands before its parts
        branches[one["node"]] = branches[one["parent"]].add(_question(one))
    return whole


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


def _tree(arm: str, steps: Sequence[Mapping[str, Any]]) -> Tree:
    tokens = sum(int(step["tokens"]) for step in steps)
    whole = Tree(Text(f"{arm}: {len(steps)} steps, {tokens} tokens", style="bold"))
    branches: dict[int | None, Tree] = {None: whole}
    for step in steps:  # a parent stands before its children
        branches[step["node"]] = branches[step["parent"]].add(_line(step))
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
