"""Every protocol has a public contract suite, and every implementation of ours runs it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from our_sources import ROOT, SOURCES, nodes_of
from typing_extensions import get_protocol_members, is_protocol

from rttc_graph import ConfigurationError, protocols, testing

DEFAULTS = frozenset({"chosen_arms", "chosen_plan", "is_calibrated", "sees_evidence", "within"})
"""Members that an implementation may inherit from its protocol."""

ONLY_COMPLETED = {
    "PlainRewardModel": "what `as_reward_model` completes, see test_reward_requests",
    "ContinuingPolicyModel": "what a policy model may say besides, tested by its suite",
    "ContinuingTrainer": "what a trainer may do besides, tested by its suite",
    "StandingAdapters": "a look-up over two stores, see test_improvement",
    "MeasuredModel": "what a model may say of its size, tested by the suite of policy models",
    "WeighingPolicyModel": "what a policy model may do besides, tested by its suite",
}
"""Protocols without a suite, and why."""

PRIVATE = {"_Within": "CalibratedReward", "_Completed": "RewardModel", "_ReadsAll": "Embedder"}
"""Implementations that are reached through another class alone."""

SEAMS = {
    name: found
    for name in protocols.__all__
    if isinstance(found := getattr(protocols, name), type) and is_protocol(found)
}


@cache
def classes() -> tuple[ast.ClassDef, ...]:
    """Return every class of ours."""
    nodes = (node for path in SOURCES for node in nodes_of(path))
    return tuple(node for node in nodes if isinstance(node, ast.ClassDef))


@cache
def named() -> dict[str, list[ast.ClassDef]]:
    """Return our classes by name."""
    found: dict[str, list[ast.ClassDef]] = {}
    for node in classes():
        found.setdefault(node.name, []).append(node)
    return found


@cache
def base_names(node: ast.ClassDef) -> set[str]:
    return {base.id for base in node.bases if isinstance(base, ast.Name)}


@cache
def methods(node: ast.ClassDef) -> set[str]:
    """Return a class's methods, with those of the abstract classes that it is made from."""
    own = {f.name for f in node.body if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))}
    bases = (
        base
        for name in base_names(node)
        for base in named().get(name, ())
        if "ABC" in base_names(base)
    )
    return own.union(*map(methods, bases))


def is_no_implementation(node: ast.ClassDef) -> bool:
    return bool(base_names(node) & {"Protocol", "ABC"})


@cache
def implementations(seam: str) -> list[str]:
    """Return our classes that have all of a protocol's methods."""
    needed = get_protocol_members(SEAMS[seam]) - DEFAULTS
    return sorted(
        {n.name for n in classes() if needed <= methods(n) and not is_no_implementation(n)}
    )


def suites_in(path: Path) -> set[str]:
    """Return the suites that a file of tests subclasses."""
    return {
        base.id
        for node in nodes_of(path)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id.endswith("Contract")
    }


def names_in(path: Path) -> set[str]:
    return {node.id for node in nodes_of(path) if isinstance(node, ast.Name)}


def cases() -> list[tuple[str, str]]:
    """Return each protocol with each of its implementations."""
    return [
        (seam, name)
        for seam in SEAMS
        if seam not in ONLY_COMPLETED
        for name in implementations(seam)
        if name not in PRIVATE
    ]


@pytest.mark.parametrize("seam", sorted(SEAMS.keys() - ONLY_COMPLETED))
def test_every_protocol_has_a_public_suite(seam: str) -> None:
    assert f"{seam}Contract" in testing.__all__
    assert getattr(testing, f"{seam}Contract").__module__ in testing.REWRITTEN
    assert implementations(seam), "a protocol that nothing implements"


def test_without_pytest_parts_in_memory_are_there_and_a_suite_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(testing, "find_spec", dict[str, Any]().get)
    assert testing.MemoryKnowledgeBase.__name__ == "MemoryKnowledgeBase"
    with pytest.raises(
        ConfigurationError, match=r"Contract needs 'pytest', .*: pip install pytest"
    ):
        _ = testing.KnowledgeBaseContract


def test_every_implementation_runs_the_suite() -> None:
    subclassing = [p for p in (ROOT / "tests").rglob("test_*.py") if "Contract)" in p.read_text()]
    tested = [(suites_in(path), names_in(path)) for path in subclassing]
    assert [
        (seam, name)
        for seam, name in cases()
        if not any(f"{seam}Contract" in suites and name in names for suites, names in tested)
    ] == []


def test_no_implementation_escapes_the_search() -> None:
    found = cases()
    assert ("LedgerStore", "MemoryLedgerStore") in found
    assert ("RewardModel", "CalibratedReward") in found
    assert len(found) >= 24
