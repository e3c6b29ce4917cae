"""Floating-point operations: counted by weights and tokens, bounded, and never made up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from graph_runs import ask, failures
from scripted_parts import Parts, ScriptedPolicyModel, candidate

from rttc_graph import ConfigurationError, NoAnswerError, RttcSettings
from rttc_graph.evaluation.replay import replayed_run
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.protocols import (
    forward_flops,
    measured_work,
    note_work,
    parameters_of,
    reward_requests,
    summed,
    training_flops,
)
from rttc_graph.run.budget import NOTHING_SPENT, Allowance, added


@dataclass
class SizedModel(ScriptedPolicyModel):
    """Says how large it is."""

    weights: int | None = 10

    async def parameters(self) -> int | None:
        return self.weights


@dataclass
class SizedParts(Parts):
    policy_model: ScriptedPolicyModel = field(default_factory=SizedModel)


def details(output: Any, event: str) -> list[dict[str, Any]]:
    return [one["detail"] for one in output["ledger"] if one["event"] == event]


@pytest.mark.parametrize(
    ("parameters", "tokens", "flops"), [(10, 7, 140.0), (10, 0, 0.0), (None, 7, None)]
)
def test_a_pass_is_two_for_each_weight_and_token(
    parameters: int | None, tokens: int, flops: float | None
) -> None:
    assert forward_flops(parameters, tokens) == flops


@pytest.mark.parametrize(
    ("parameters", "layers", "flops"), [(10, 1.0, 280.0), (10, 0.5, 210.0), (None, 1.0, None)]
)
def test_a_training_is_four_or_with_half_of_the_layers_three(
    parameters: int | None, layers: float, flops: float | None
) -> None:
    assert training_flops(parameters, 7, layers=layers) == flops


@pytest.mark.parametrize(
    ("parts", "total"), [((1.0, 2.0), 3.0), ((), 0.0), ((1.0, None), None), ((None,), None)]
)
def test_what_is_not_known_has_no_sum(parts: tuple[float | None, ...], total: float | None) -> None:
    assert summed(*parts) == total


def test_work_is_noted_where_it_is_measured_alone() -> None:
    note_work(5, 10.0)  # nobody asks
    with measured_work() as silent:
        pass
    with measured_work() as work:
        note_work(5, 10.0)
        note_work(2, None)
    assert (silent.tokens, silent.flops) == (None, None)
    assert (work.tokens, work.flops) == (7, None)


async def test_a_judge_without_a_model_costs_nothing() -> None:
    with measured_work() as work:
        await SelfConfidence().score("q", reward_requests([{**candidate("direct"), "answer": ""}]))
    assert (work.tokens, work.flops) == (0, 0.0)


async def test_a_model_that_is_silent_has_no_size() -> None:
    assert await parameters_of(ScriptedPolicyModel()) is None
    assert await parameters_of(SizedModel()) == 10


def test_what_is_spent_and_what_is_left() -> None:
    now = time.monotonic()
    once = added(NOTHING_SPENT, since=now, flops=30.0)
    assert added(once, since=now, flops=None).get("flops") == 30.0
    assert "flops" not in added(NOTHING_SPENT, since=now, flops=None)
    assert Allowance.from_spent(once, RttcSettings()).flops is None
    left = Allowance.from_spent(once, RttcSettings(budget_flops=25))
    assert (left.flops, left.exhausted()) == (-5.0, "flops")


@pytest.mark.parametrize(("weights", "each"), [(10, 20.0), (None, None)])
async def test_every_attempt_says_what_it_cost(weights: int | None, each: float | None) -> None:
    parts = SizedParts(policy_model=SizedModel(weights=weights))
    output = await ask(parts, arms=("direct", "rag", "ttt"), use_cache=False)
    for one in output["candidates"]:
        tokens = one["prompt_tokens"] + one["completion_tokens"]
        training = 40.0 * one["trained_tokens"] if each is not None else 0.0
        expected = None if each is None else each * tokens + training
        assert one.get("flops") == expected
        assert one.get("reused_tokens") == 0
    assert [one["flops"] for one in details(output, "judged")] == [None] * 3  # the judge is silent
    assert failures(output["ledger"]) == []
    [trained] = details(output, "trained")
    assert trained["flops"] == (None if each is None else 40.0 * trained["trained_tokens"])


async def test_a_panel_says_what_all_its_draws_cost() -> None:
    output = await ask(SizedParts(), policy="majority", search_n=4)
    [one] = output["candidates"]
    assert one["draws"] == 4
    assert one["flops"] == 20.0 * (one["prompt_tokens"] + one["completion_tokens"])
    assert details(output, "stopped")[0]["flops"] == one["flops"]


@pytest.mark.parametrize("weights", [None])
async def test_a_bound_that_nobody_can_count_is_refused(weights: int | None) -> None:
    for model in (ScriptedPolicyModel(), SizedModel(weights=weights)):
        parts = Parts(policy_model=model)
        with pytest.raises(ConfigurationError, match="budget_flops=100, but 'scripted' does not"):
            await ask(parts, budget_flops=100)
        assert model.requests == []


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_bounds_that_make_no_sense_are_refused(wrong: float) -> None:
    with pytest.raises(ConfigurationError, match="budget_flops"):
        RttcSettings(budget_flops=wrong)


async def test_what_the_bound_has_no_room_for_is_not_asked() -> None:
    parts = SizedParts()
    prompt = await _prompt_tokens()
    with pytest.raises(NoAnswerError, match=r"budget_flops=\S+ at 20 for a token"):
        await ask(parts, policy="direct", budget_flops=20 * prompt)
    assert parts.policy_model.requests == []
    output = await ask(parts, policy="direct", budget_flops=20 * (prompt + 3), max_new_tokens=50)
    assert output["answer"] == "direct"
    assert parts.policy_model.requests[-1].max_new_tokens == 3


async def test_a_panel_keeps_to_it_and_returns_the_best_so_far() -> None:
    parts = SizedParts()
    prompt = await _prompt_tokens()
    settings: dict[str, Any] = {"search_from": ("direct",), "search_n": 8, "max_new_tokens": 10}
    room = 20 * 3 * (prompt + 10)  # three of them at their longest
    output = await ask(parts, policy="majority", budget_flops=room, **settings)
    [one] = output["candidates"]
    assert output["answer"] == "direct"
    assert one["flops"] <= room
    assert 3 <= one["draws"] < 8
    [stopped] = details(output, "stopped")
    assert "budget_flops=" in stopped["reason"]


async def test_a_training_that_does_not_fit_is_not_begun() -> None:
    parts = SizedParts()
    output = await ask(parts, arms=("direct", "ttt"), use_cache=False, budget_flops=2000)
    assert {one["arm"] for one in output["candidates"]} == {"direct"}
    assert parts.trainer.trainings == []
    assert "budget_flops=2000" in failures(output["ledger"])[0]


async def _prompt_tokens() -> int:
    parts = SizedParts()
    await ask(parts, policy="direct")
    return await parts.policy_model.count_tokens(parts.policy_model.requests[0].messages)


def test_a_replayed_run_adds_them_up() -> None:
    two = [{**candidate("direct", 0.2), "flops": 5.0}, {**candidate("rag", 0.9), "flops": 7.0}]
    known: Any = two
    assert replayed_run(known, [False, True], seconds=1.0, tau_r=0.5).flops == 12.0
    older: Any = [*two, candidate("ttt", 0.1)]
    assert replayed_run(older, [False, True, False], seconds=1.0, tau_r=0.5).flops is None
