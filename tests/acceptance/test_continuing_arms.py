"""Strategies that go on from the beginning of an answer, with models that can and cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from graph_runs import ask, failures
from scripted_parts import Parts, ScriptedPolicyModel

from rttc_graph import ConfigurationError
from rttc_graph.arms import unregister_arm
from rttc_graph.search.majority import Majority
from rttc_graph.search.strategies import register_strategy


@dataclass
class ContinuingModel(ScriptedPolicyModel):
    """Says that it can go on from the beginning of an answer."""

    continues_answers: bool = True


@dataclass
class ContinuingParts(Parts):
    policy_model: ScriptedPolicyModel = field(default_factory=ContinuingModel)


@pytest.fixture
def arm() -> Iterator[str]:
    register_strategy("goes_on", Majority(), cost=37, continues=True)
    yield "goes_on"
    unregister_arm("goes_on")


@pytest.mark.parametrize("model", [ScriptedPolicyModel(), ContinuingModel(continues_answers=False)])
async def test_a_model_that_begins_anew_leaves_the_arm_out_and_the_ledger_says_so(
    arm: str, model: ScriptedPolicyModel
) -> None:
    parts = Parts(policy_model=model)
    with pytest.raises(ConfigurationError, match=r"policy='goes_on' .* that continues answers"):
        await ask(parts, policy=arm)
    output = await ask(parts, arms=("direct", arm))
    assert {one["arm"] for one in output["candidates"]} == {"direct"}
    [skipped] = [one["detail"] for one in output["ledger"] if one["event"] == "skipped"]
    assert skipped["arm"] == arm
    assert "a policy_model that continues answers" in skipped["reason"]


async def test_a_model_that_goes_on_has_the_arm(arm: str) -> None:
    output: dict[str, Any] = await ask(ContinuingParts(), policy=arm, search_n=2)
    assert output["arm"] == arm
    assert failures(output["ledger"]) == []
