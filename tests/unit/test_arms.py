"""The table of arms: what it refuses, and that nothing beside it lists arms."""

from __future__ import annotations

import ast
import pkgutil
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from our_sources import ROOT, SOURCES, nodes_of, relative
from pydantic import TypeAdapter, ValidationError

from rttc_graph import ConfigurationError, RttcParts
from rttc_graph.arms import (
    ARMS,
    MULTI_ARM,
    ArmNode,
    ArmRecord,
    ArmTable,
    AttemptRecord,
    PolicyName,
    arms_of_policies,
    decision_names,
    policy_names,
)
from rttc_graph.evaluation.evaluation_rows import Judgement, RowLog
from rttc_graph.run.policies import MULTI_ARM_POLICIES
from rttc_graph.settings import RttcSettings, SamplesChoice
from rttc_graph.state import RttcState

ATTEMPT = AttemptRecord(
    name="new",
    cost=37,
    node=ArmNode(name="new_node", made_by="rttc_graph.nodes.generate:Generate"),
    reason="it is new",
    parts=frozenset({"policy_model"}),
)
PANELS = ("budget_forcing", "adaptive", "majority", "weighted", "best_of_n")
STEERED = (
    *("search_o1", "refine", "revise", "self_verify", "graph_of_thoughts"),
    *("beam", "particles", "dvts", "lookahead", "mcts"),
)
"""Panels whose draws rest on earlier ones."""
NEW = ArmRecord(name="new", attempts=(ATTEMPT,))


def test_the_table_is_in_the_order_of_cost() -> None:
    assert list(ARMS) == ["nearest", "direct", "rag", *PANELS, "ttt", *STEERED]
    assert list(ARMS.attempts) == ["nearest", "direct", "recalled", "rag", *PANELS, "ttt", *STEERED]
    table = ArmTable(ARMS.values())
    table.register(NEW)
    assert list(table) == ["nearest", "direct", "rag", *PANELS, "new", "ttt", *STEERED]
    assert table.of_attempt("recalled").name == "ttt"
    table.unregister("new")
    assert list(table) == list(ARMS)
    with pytest.raises(ConfigurationError, match="attempt 'new' is unknown"):
        table.of_attempt("new")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        pytest.param(replace(NEW, name="rag"), "name is taken", id="known-arm"),
        pytest.param(replace(NEW, name="cascade"), "name is taken", id="name-of-a-plan"),
        pytest.param(replace(NEW, name="other"), "none of its attempts", id="no-own-attempt"),
        pytest.param(replace(NEW, may_begin=True), "must be in it", id="begins-what-it-is-not-in"),
        pytest.param(
            replace(NEW, attempts=(replace(ATTEMPT, finds="adapter"),)),
            "without the query-state cache",
            id="only-with-a-cache",
        ),
        pytest.param(
            replace(NEW, attempts=(ATTEMPT, replace(ATTEMPT, name="recalled", cost=38))),
            r"attempts \['recalled'\] are taken",
            id="known-attempt",
        ),
        pytest.param(
            replace(NEW, attempts=(replace(ATTEMPT, cost=30),)), r"costs? \[30\]", id="same-cost"
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused(record: ArmRecord, words: str) -> None:
    table = ArmTable(ARMS.values())
    with pytest.raises(ConfigurationError, match=words):
        table.register(record)
    assert list(table) == list(ARMS)


@pytest.mark.parametrize("attempt", ARMS.attempts.values(), ids=list(ARMS.attempts))
def test_a_node_is_made_of_parts_that_its_attempt_has_or_can_do_without(
    attempt: AttemptRecord,
) -> None:
    assert isinstance(attempt.node.made_by, str)
    maker = pkgutil.resolve_name(attempt.node.made_by)
    known = RttcParts.__annotations__.keys()
    assert {field.name for field in fields(maker)} | attempt.parts <= known
    assert set(attempt.node.then) <= set(decision_names())


def test_every_policy_of_several_arms_is_made() -> None:
    assert set(MULTI_ARM_POLICIES) == set(MULTI_ARM)


def test_an_evaluation_runs_the_arms_of_its_policies_and_no_others() -> None:
    assert arms_of_policies(["cascade", "rag"]) == ("nearest", "direct", "rag", "ttt")
    assert arms_of_policies(["compare"], ["rag"]) == ("direct", "rag")  # direct without samples
    assert arms_of_policies(["rag", "nearest"]) == ("nearest", "rag")
    assert arms_of_policies([]) == ()


def test_schemas_show_the_known_names_and_others_are_refused() -> None:
    properties = RttcSettings.model_json_schema()["properties"]
    assert properties["policy"]["enum"] == list(policy_names())
    assert properties["first_arm"]["enum"] == ["", "nearest", "direct", "rag"]
    state = TypeAdapter(RttcState).json_schema()["properties"]
    assert state["attempt"]["enum"] == list(ARMS.attempts)
    assert state["decision"]["enum"] == list(decision_names())
    with pytest.raises(ValidationError, match=r"'compare', 'plan', 'nearest', .* or 'mcts'"):
        TypeAdapter(PolicyName).validate_python("best")


def test_a_row_of_an_unknown_arm_is_named(tmp_path: Path) -> None:
    line: Judgement = {
        "kind": "judgement",
        "digest": "d",
        "data_set": "s",
        "model": "m",
        "row": "r",
        "policy": "gone",
        "seed": 0,
        "reward_model": "j",
        "fingerprint": "f",
        "reward": 0.5,
        "seconds": 0.1,
    }
    log = RowLog(tmp_path / "rows.jsonl")
    log.add([line])
    with pytest.raises(ConfigurationError, match=r"arm 'gone' of a row in .*rows\.jsonl.* unknown"):
        log.load()


def constants(path: Path) -> set[str]:
    """Return the strings of a module, or those in quotes of a file of SQL."""
    if path.suffix == ".sql":
        return set(re.findall(r"'(\w+)'", path.read_text(encoding="utf-8")))
    strings = (node.value for node in nodes_of(path) if isinstance(node, ast.Constant))
    return {value for value in strings if isinstance(value, str)}


def test_no_other_file_lists_arms() -> None:
    # `nearest` is a choice of samples as well, and `majority` a baseline.
    arms = ARMS.keys() - {*get_args(SamplesChoice), "majority"}
    read = [*SOURCES, *(ROOT / "migrations").glob("*.sql")]
    named = {relative(path): found for path in read if (found := constants(path) & arms)}
    assert (
        named.pop("rttc_graph/arms.py")
        == arms
        == {"direct", "rag", "ttt", *PANELS, *STEERED} - {"majority"}
    )
    named.pop("rttc_graph/jobs/support_desk.py")  # a demo names the routes that it shows
    assert all(len(arms) == 1 and file.startswith("nodes/") for file, arms in named.items()), named
