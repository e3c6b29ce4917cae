"""Plans by difficulty: fitted on hand-worked tables, read from JSON, and run."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
from graph_runs import TAU_R, ask, failures
from scripted_parts import Parts, candidate, sample

from rttc_graph.calibration.aims import Aim, choose, sweep
from rttc_graph.calibration.plans import PlanFitting, expected_plans, plan_chooser
from rttc_graph.calibration.proposal import propose
from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.evaluation.evaluation_rows import EvaluationRow, EvaluationRows, RowKey
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, policy_figures
from rttc_graph.evaluation.replay import Gate, JudgedArm, replay
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    PLAN_KEY,
    STANDING_KEY,
    arms_of,
    plan_of,
)
from rttc_graph.integrations.rewards.calibrated.stored_plan import read_plan
from rttc_graph.jobs.collect_rows import ModelRows, gates_of
from rttc_graph.jobs.fit_ratings import kept_beside_the_map
from rttc_graph.protocols import DomainCalibration, StoredCalibration
from rttc_graph.run.policies import decide
from rttc_graph.settings import RttcSettings
from rttc_graph.state import Arm, Attempt, Candidate, Plan, RttcState

SECONDS: Mapping[Arm, float] = {"nearest": 1.0, "rag": 2.0, "ttt": 10.0}

PLAN: Plan = {
    "first": "nearest",
    "edges": [0.25, 0.75],
    "bins": [
        {"arms": ["rag", "ttt"], "tau_r": 0.6},
        {"arms": ["ttt"], "tau_r": 0.9},
        {"arms": [], "tau_r": 0.0},
    ],
}


def judged(arm: Arm, reward: float | None, *, right: bool) -> JudgedArm:
    row: EvaluationRow = {
        "kind": "answer",
        "digest": "",
        "data_set": "d",
        "model": "m",
        "row": "",
        "policy": arm,
        "seed": 0,
        "id": None,
        "domain": "d",
        "question": "q",
        "reference": "a",
        "metadata": {},
        "candidates": [{**candidate(arm), "seconds": SECONDS[arm]}],
        "right": right,
        "seconds": {"generation": SECONDS[arm], "retrieval": 0.0, "training": 0.0},
        "error": None,
    }
    return JudgedArm(row=row, reward=reward, judging_seconds=0.0)


def three(**told: tuple[float, bool]) -> Mapping[Arm, JudgedArm]:
    return {arm: judged(arm, reward, right=right) for arm, (reward, right) in told.items()}


EASY = three(nearest=(0.9, True), rag=(0.9, True), ttt=(0.9, True))
MEDIUM = three(nearest=(0.5, False), rag=(0.8, True), ttt=(0.8, True))
HARD = three(nearest=(0.1, False), rag=(0.2, False), ttt=(0.9, True))


@cache
def fitting(each: int = 30, *, folds: bool = False) -> PlanFitting:
    questions = [arms for arms in (EASY, MEDIUM, HARD) for _ in range(each)]
    numbers = [n % 5 for n in range(len(questions))] if folds else []
    return PlanFitting(questions=questions, points=sweep(questions), folds=numbers)


def test_each_bin_gets_what_is_worth_its_price() -> None:
    """Three thirds: at no price all are right, for 1, 1 + 2 and 1 + 10 seconds."""
    found = fitting().at_price(0.0)
    assert [one["arms"] for one in found.plan["bins"]] == [["ttt"], ["rag"], []]
    assert (found.plan["first"], found.plan["edges"]) == ("nearest", [0.5, 0.9])
    assert found.counts == (30, 30, 30)
    assert found.accuracy == 1
    assert found.seconds == pytest.approx(5.0)
    # one more right answer for ten seconds is not worth it at 0.2 for each, for two it is
    cheaper = fitting().at_price(0.2)
    assert [one["arms"] for one in cheaper.plan["bins"]] == [[], ["rag"], []]
    assert (cheaper.accuracy, cheaper.seconds) == pytest.approx((2 / 3, 5 / 3))
    # at the price of an answer for each second nothing follows, so that all bins are one
    alone = fitting().at_price(1.0)
    assert alone.plan["bins"] == [{"arms": [], "tau_r": 0.0}]
    assert alone.counts == (90,)


@pytest.mark.parametrize(
    ("aim", "accuracy", "seconds"),
    [
        pytest.param(Aim(best=True), 1.0, 5.0, id="best"),
        pytest.param(Aim(), 1.0, 5.0, id="within-an-error"),
        pytest.param(Aim(accuracy=0.6), 2 / 3, 5 / 3, id="accuracy"),
        pytest.param(Aim(seconds=4.9), 2 / 3, 5 / 3, id="seconds"),
        pytest.param(Aim(seconds=5.1), 1.0, 5.0, id="more-seconds"),
        pytest.param(Aim(seconds=1.0), 1 / 3, 1.0, id="least-seconds"),
    ],
)
def test_an_aim_chooses_a_plan(aim: Aim, accuracy: float, seconds: float) -> None:
    one = fitting()
    found = plan_chooser([one], aim)(one)
    assert (found.accuracy, found.seconds) == pytest.approx((accuracy, seconds))


FLOPS: Mapping[Arm, float] = {"nearest": 0.0, "rag": 2e11, "ttt": 5e11}


def counted(arms: Mapping[Arm, JudgedArm]) -> Mapping[Arm, JudgedArm]:
    """Return rows that say how many operations their answers took."""
    return {
        arm: replace(
            one,
            row={**one.row, "candidates": [{**one.row["candidates"][0], "flops": FLOPS[arm]}]},
        )
        for arm, one in arms.items()
    }


@pytest.mark.parametrize(
    ("most", "accuracy", "flops"),
    [(2.4e11, 1.0, 7e11 / 3), (2.3e11, 2 / 3, 2e11 / 3), (1e10, 1 / 3, 0.0)],
)
def test_a_plan_may_be_held_to_a_mean_of_operations(
    most: float, accuracy: float, flops: float
) -> None:
    """Rag costs two fifths of a training here, where it is a fifth in seconds."""
    questions = [counted(arms) for arms in (EASY, MEDIUM, HARD) for _ in range(30)]
    numbers = [n % 5 for n in range(len(questions))]
    one = PlanFitting(questions=questions, points=sweep(questions, in_flops=True), folds=numbers)
    aim = Aim(flops=most)
    found = plan_chooser([one], aim)(one)
    assert (found.accuracy, found.cost) == pytest.approx((accuracy, flops))
    assert found.seconds >= 1.0  # still told
    assert choose(one.points, aim).cost <= most
    expected = expected_plans([one], aim)
    assert expected is not None
    assert expected.flops == pytest.approx(flops, abs=most)


def test_operations_out_of_reach_or_unknown_are_refused() -> None:
    costly = [{arm: one for arm, one in counted(EASY).items() if arm != "nearest"}] * 30
    gates = sweep(costly, in_flops=True)
    one = PlanFitting(questions=costly, points=gates)
    with pytest.raises(ConfigurationError, match=r"within 1e\+09 operations .* takes 2e\+11 op"):
        plan_chooser([one], Aim(flops=1e9))(one)
    with pytest.raises(ConfigurationError, match=r"no τr stays within 1e\+09 operations"):
        choose(gates, Aim(flops=1e9))
    with pytest.raises(ConfigurationError, match="rows do not say how many operations"):
        sweep([EASY], in_flops=True)
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ConfigurationError, match="target flops="):
            Aim(flops=bad)
    with pytest.raises(ConfigurationError, match="give one aim"):
        Aim(flops=1e12, seconds=1.0)


def test_one_price_holds_the_mean_of_all_domains() -> None:
    """Easy questions leave their seconds to the others, and a bound on each would not."""
    easy = PlanFitting(questions=[EASY] * 90, points=sweep([EASY] * 90))
    mixed = fitting()
    choose_plan = plan_chooser([easy, mixed], Aim(seconds=3.01))
    assert choose_plan(easy).seconds == 1.0
    assert choose_plan(mixed).seconds == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("aim", "told"),
    [
        pytest.param(Aim(seconds=0.5), "cheapest takes 1.00 s; raise the target", id="seconds"),
        pytest.param(Aim(accuracy=0.99), "the best has 0.0%; lower the target", id="accuracy"),
    ],
)
def test_an_aim_out_of_reach_says_what_can_be_had(aim: Aim, told: str) -> None:
    questions = [three(nearest=(0.5, False), rag=(0.5, False), ttt=(0.5, False))] * 30
    one = PlanFitting(questions=questions, points=sweep(questions))
    with pytest.raises(ConfigurationError, match=told):
        plan_chooser([one], aim)(one)


def test_too_few_questions_are_one_bin_and_a_blind_judge_one_arm() -> None:
    few = fitting(20).at_price(0.0)  # 60 questions, and no bound parts them 30 to 30
    assert (few.plan["edges"], len(few.plan["bins"])) == ([], 1)
    assert few.seconds == pytest.approx(16 / 3)  # that of the cascade
    questions = fitting().questions
    blind = [p for p in sweep(questions, [0.0]) if len(p.gate.arms) == 1]
    alone = PlanFitting(questions=questions, points=blind).at_price(0.0).plan
    assert alone["bins"] == [{"arms": [], "tau_r": 0.0}]


def made(number: int, draw: random.Random) -> EvaluatedQuestion:
    """A question whose rewards tell something; some answers are refusals."""
    arms: dict[Arm, JudgedArm] = {}
    for arm in SECONDS:
        right = draw.random() < 0.5
        arms[arm] = judged(arm, round(draw.gauss(0.6 if right else 0.4, 0.1), 3), right=right)
        if draw.random() < 0.1:
            arms[arm].row["candidates"][0]["answer"] = "I do not know."
    return EvaluatedQuestion(data_set="d", model="m", row=str(number), domain="d", arms=arms)


def questions_of(count: int) -> list[EvaluatedQuestion]:
    draw = random.Random(7)
    return [made(number, draw) for number in range(count)]


def test_what_is_fitted_is_what_a_replay_does() -> None:
    questions = [question.arms for question in questions_of(100)]
    curve = PlanFitting(questions=questions, points=sweep(questions)).curve()
    assert any(len(point.plan["bins"]) == 3 for point in curve)
    for point in curve:
        runs = [replay(arms, "plan", Gate(tau_r=0.5, plan=point.plan)) for arms in questions]
        assert [run.right for run in runs] == list(point.rights)
        assert [run.seconds for run in runs] == list(point.costs)


def test_what_is_expected_comes_from_other_questions() -> None:
    part = fitting(40, folds=True)
    found = expected_plans([part], Aim(best=True))
    assert found is not None
    assert (found.questions, found.accuracy, found.cascade_accuracy) == (120, 1.0, 1.0)
    # the cascade is rag, then ttt: (2 + 2 + 12) / 3
    assert (found.seconds, found.cascade_seconds) == pytest.approx((5.0, 16 / 3))
    assert found.difference == (0.0, 0.0, 0.0)
    assert expected_plans([part], Aim(seconds=0.5)) is None


def test_a_proposal_keeps_a_plan_for_each_domain_and_its_figures_are_replayed() -> None:
    proposal = propose(questions_of(100), Aim())
    stored = proposal.stored("judge", "f")
    kept = plan_of(stored, "d")
    assert kept == proposal.plans["d"].plan
    assert proposal.expected is not None
    assert proposal.expected.questions == 100
    gate = Gate(tau_r=0.5, plan=kept)
    figures = policy_figures(proposal.questions, ["plan", "cascade"], lambda _: gate)
    plan = figures["policies"]["plan"]
    assert plan["accuracy"] == proposal.plans["d"].accuracy
    assert plan["against_cascade"] is not None


def looked(*candidates: Candidate, tried: Sequence[Attempt], **more: Any) -> RttcState:
    state: RttcState = {
        "plan": PLAN,
        "candidates": list(candidates),
        "tried": list(tried),
        "retrieved": True,
        "samples": [sample(1)],
    }
    return cast("RttcState", {**state, **more})


N = ("nearest",)
ALL: frozenset[Attempt] = frozenset({"nearest", "direct", "rag", "ttt"})


@pytest.mark.parametrize(
    ("state", "expected", "reason"),
    [
        pytest.param({"plan": PLAN}, "retrieve", "nearest is the plan's first arm", id="begins"),
        pytest.param(
            looked(candidate("nearest", 0.1), tried=N),
            "rag",
            "bin 1 of 3 (P(right) of nearest is 0.10; below 0.25)",
            id="hard",
        ),
        pytest.param(looked(candidate("nearest", 0.25), tried=N), "ttt", "bin 2 of 3", id="edge"),
        pytest.param(
            looked(candidate("nearest", 0.8), tried=N),
            "finish",
            "bin 3 of 3 (P(right) of nearest is 0.80; 0.75 or more): the plan has no further arm",
            id="easy",
        ),
        pytest.param(
            looked(candidate("nearest", 0.1), candidate("rag", 0.6), tried=("nearest", "rag")),
            "finish",
            "no further arm from a reward of 0.6 on",
            id="enough-for-the-bin",
        ),
        pytest.param(
            looked(candidate("nearest", 0.1), candidate("rag", 0.5), tried=("nearest", "rag")),
            "ttt",
            "bin 1 of 3",
            id="enough-for-the-settings-only",
        ),
        pytest.param(
            looked(candidate("nearest", 0.9), tried=N, difficulty=0.1),
            "finish",
            "bin 1 of 3 (P(right) of nearest is 0.10",
            id="judged-anew-it-stays-in-its-bin",
        ),
        pytest.param(
            looked(
                {**candidate("nearest", 0.9), "answer": "I do not know.", "completion_tokens": 4},
                tried=N,
            ),
            "rag",
            "bin 1 of 3 (nearest gave no answer",
            id="refusal",
        ),
        pytest.param(looked(tried=N), "rag", "nearest gave no answer", id="no-answer"),
        pytest.param(
            looked(tried=(), samples=[]), "direct", "nearest gave no answer", id="no-samples"
        ),
        pytest.param(
            {**looked(candidate("nearest", 0.9), tried=N), "plan": None},
            "finish",
            "accepted",
            id="a-cascade-where-there-is-none",
        ),
    ],
)
def test_what_a_plan_does_next(state: RttcState, expected: str, reason: str) -> None:
    found = decide(state, RttcSettings(policy="plan", tau_r=0.4), arms=ALL)
    said = found.decision if found.decision in ("finish", "retrieve") else found.attempt
    assert said == expected
    assert reason in found.reason


def test_a_hard_cap_ends_a_plan() -> None:
    state = looked(candidate("nearest", 0.1), tried=N, spent={"seconds": 0, "tokens": 0, "arms": 1})
    found = decide(state, RttcSettings(policy="plan", budget_arms=1), arms=ALL)
    assert (found.decision, found.reason) == ("finish", "budget of arms is spent")


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        pytest.param("x", "cannot be read", id="text"),
        pytest.param({**PLAN, "edges": [0.5]}, "one bin more than edges", id="a-bin-too-many"),
        pytest.param({**PLAN, "edges": [0.5, 0.5]}, "edges must rise", id="an-empty-bin"),
        pytest.param({**PLAN, "edges": [0.5, float("nan")]}, "edges must rise", id="nan"),
        pytest.param({**PLAN, "first": "gone"}, "'ttt'", id="an-arm-that-is-gone"),
    ],
)
def test_a_plan_that_cannot_be_read_says_why(kept: object, told: str) -> None:
    with pytest.raises(ConfigurationError, match="rttc calibrate") as raised:
        read_plan(kept)
    assert told in str(raised.value)
    assert read_plan(None) is None
    assert read_plan(PLAN) == PLAN


def calibration(plan: object, **more: object) -> StoredCalibration:
    parameters = {"method": "platt", "knots": [[1.0, 0.0]], "arms": ["nearest"], PLAN_KEY: plan}
    domain = DomainCalibration(parameters={**parameters, **more}, pairs=60)
    return StoredCalibration(reward_model="judge", fingerprint="f", domains={"d": domain})


def test_an_unreadable_plan_is_in_the_way_of_no_other_policy_and_is_not_dropped() -> None:
    stored = calibration({"of": "a later release"})
    assert arms_of(stored, "d") == ("nearest",)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        plan_of(stored, "d")
    assert kept_beside_the_map(stored, "d", {})[PLAN_KEY] == {"of": "a later release"}


def test_a_map_of_ratings_keeps_the_plan() -> None:
    kept = {"arms": ["nearest"], PLAN_KEY: PLAN}
    assert kept_beside_the_map(calibration(PLAN), "d", {}) == kept
    assert kept_beside_the_map(calibration(PLAN), "d", {"d": "another model's"}) == {"arms": []}
    assert kept_beside_the_map(calibration(PLAN), "other", {}) == {"arms": []}
    assert kept_beside_the_map(None, "d", {}) == {"arms": []}


def rows_of(stored: StoredCalibration, standing: dict[str, str]) -> ModelRows:
    """Return rows of a domain `d` that were made with these adapters of domains."""
    return ModelRows(
        model="m",
        rows=EvaluationRows(settings={"digest": {"standing": standing}}),
        keys=[RowKey("digest", "set", "m", "row", "direct")],
        reward_model="judge",
        fingerprint="f",
        calibration=stored,
    )


def test_rows_of_another_model_go_by_neither_map_nor_plan() -> None:
    stored = calibration(PLAN, **{STANDING_KEY: "own"})
    asked = [EvaluatedQuestion(data_set="set", model="m", row="row", domain="d", arms={})]

    def gates(standing: dict[str, str], *, with_plans: bool) -> list[Gate]:
        found = [rows_of(stored, standing)]
        return [*gates_of(InstallationConfig(), found, asked, with_plans=with_plans).values()]

    assert rows_of(stored, {"d": "own"}).maps == stored
    assert [gate.plan for gate in gates({"d": "own"}, with_plans=True)] == [PLAN]
    for standing in ({}, {"d": "another"}):
        assert [gate.arms for gate in gates(standing, with_plans=False)] == [()]
        with pytest.raises(ConfigurationError, match="no plan is kept for the domain 'd'"):
            gates(standing, with_plans=True)


def planned(plan: Plan | Exception | None) -> Parts:
    rewards = {"answer 0": 0.3, "answer 1": 0.3, "rag": 0.7, "ttt": 0.95}
    parts = Parts(arms=()).rewarding(**rewards)
    parts.reward_model.plan = plan
    return parts


async def test_a_run_goes_by_its_plan_and_the_ledger_names_the_bin() -> None:
    output = await ask(planned(PLAN), policy="plan", use_cache=False)
    assert [c["arm"] for c in output["candidates"]] == ["nearest", "ttt"]
    assert output["tau_r"] == TAU_R  # what is accepted is not the plan's to say
    [chosen] = [e for e in output["ledger"] if e["event"] == "chosen"]
    assert chosen["detail"] == {"plan": PLAN}
    [first, last] = [e["detail"]["reason"] for e in output["ledger"] if e["event"] == "decided"]
    assert first.startswith("bin 2 of 3 (P(right) of nearest is 0.30; 0.25 to 0.75): ")
    assert last.startswith("bin 2 of 3")


async def test_a_run_without_a_plan_says_how_to_get_one() -> None:
    with pytest.raises(ConfigurationError, match=r"rttc calibrate QUESTIONS.*policy=cascade"):
        await ask(planned(None), policy="plan")


async def test_a_plan_that_cannot_be_loaded_leaves_a_cascade() -> None:
    output = await ask(planned(RewardModelError("down")), policy="plan", use_cache=False)
    assert [c["arm"] for c in output["candidates"]] == ["nearest", "rag", "ttt"]
    assert any("down" in told for told in failures(output["ledger"]))
