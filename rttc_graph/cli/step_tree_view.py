"""A tree of steps drawn in the terminal."""

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


def _tree(arm: str, steps: Sequence[Mapping[str, Any]]) -> Tree:
    tokens = sum(int(step["tokens"]) for step in steps)
    whole = Tree(Text(f"{arm}: {len(steps)} steps, {tokens} tokens", style="bold"))
    branches: dict[int | None, Tree] = {None: whole}
    for step in steps:  # a parent stands before its children
        branches[step["node"]] = branches[step["parent"]].add(_line(step))
    return whole


def _line(step: Mapping[str, Any]) -> Text:
    share = "   -" if step["p"] is None else f"{step['p']:.2f}"
    text = " ".join(str(step["step"]).split())
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    line = Text(f"P {share} ", style="cyan").append(shown or "(end)", style="default")
    marks = [f"{step['tokens']} tokens"]
    if step["look"]:
        marks.append("look")
    if step["answer"] is not None:
        marks.append(f"answer {step['answer']}")
    return line.append(f"  [{', '.join(marks)}]", style="dim")
