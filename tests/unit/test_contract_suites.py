"""Every protocol has a public contract suite, and every implementation of ours runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import get_protocol_members, is_protocol

from rttc_graph import ConfigurationError, protocols, testing

ROOT = Path(__file__).parents[2]
DEFAULTS = frozenset({"chosen_arms", "is_calibrated", "sees_evidence", "within"})
"""Members that an implementation may inherit from its protocol."""

ONLY_COMPLETED = {
    "PlainRewardModel": "what `as_reward_model` completes, see test_reward_requests",
    "ContinuingPolicyModel": "what a policy model may say besides, tested by its suite",
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


def classes(*folders: str) -> Iterator[tuple[Path, ast.ClassDef]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield path, node


def methods(node: ast.ClassDef) -> set[str]:
    return {f.name for f in node.body if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))}


def is_protocol_class(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def implementations(seam: str) -> list[str]:
    """Return our classes that have all of a protocol's methods."""
    needed = get_protocol_members(SEAMS[seam]) - DEFAULTS
    return sorted(
        {
            node.name
            for _, node in classes("rttc_graph", "integrations", "nodes")
            if needed <= methods(node) and not is_protocol_class(node)
        }
    )


def suites_in(path: Path) -> set[str]:
    """Return the suites that a file of tests subclasses."""
    return {
        base.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id.endswith("Contract")
    }


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


TESTED = [(suites_in(path), names_in(path)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]

CASES = [
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


@pytest.mark.parametrize(("seam", "name"), CASES)
def test_every_implementation_runs_the_suite(seam: str, name: str) -> None:
    assert any(f"{seam}Contract" in suites and name in names for suites, names in TESTED)


def test_no_implementation_escapes_the_search() -> None:
    assert ("LedgerStore", "MemoryLedgerStore") in CASES
    assert ("RewardModel", "CalibratedReward") in CASES
    assert len(CASES) >= 24
