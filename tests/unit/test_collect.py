"""Rows of all arms: collected once, resumed, judged anew, and what is worked out from them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted_parts import Parts, ScriptedRewardModel, sample

from rttc_graph.calibration.aims import GRID, Aim, sweep
from rttc_graph.calibration.map_fitting import fold_number
from rttc_graph.calibration.proposal import cross_fitted, propose
from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.evaluation.collect import (
    Collection,
    DataSet,
    collect,
    judge_missing,
    row_keys,
)
from rttc_graph.evaluation.evaluation_rows import EvaluationRows, RowLog, settings_digest
from rttc_graph.evaluation.intervals import paired_difference
from rttc_graph.evaluation.policy_figures import (
    EvaluatedQuestion,
    evaluated_questions,
    grouped,
    policy_figures,
)
from rttc_graph.evaluation.replay import Gate, JudgedArm, at_random, oracle, replay
from rttc_graph.evaluation.report import ReportInput, write_report
from rttc_graph.graph import RttcParts, create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import CURVE_KEY, probability_map
from rttc_graph.jobs.collect_rows import RowsWanted, wanted_collection
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm

SHOP = DataSet(
    name="shop",
    rows=[NewSample(question=f"q{n}", answer="rag", domain="shop") for n in range(3)],
)
MODEL_ARMS: tuple[Arm, ...] = ("direct", "rag", "ttt")
RAG: tuple[Arm, ...] = ("rag", "ttt")
MATH = DataSet(name="math", rows=[NewSample(question="m", answer="ttt", domain="general")])


def shop_parts() -> Parts:
    """Scripted parts whose knowledge base has samples in the domain of `SHOP`."""
    parts = Parts().rewarding(direct=0.2, rag=0.6, ttt=0.9)
    parts.knowledge_base.domains = ("shop",)
    return parts


@dataclass
class Arms:
    """Runs arms on a real graph of scripted parts; may break off after some runs."""

    parts: Parts = field(default_factory=shop_parts)
    most: int = 10_000
    asked: list[tuple[str, str | None, Arm]] = field(
        default_factory=list[tuple[str, str | None, Arm]]
    )
    seeds: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.parts.knowledge_base.domains = ("math", "shop")

    async def __call__(
        self, question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        if len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked.append((question, domain, policy))
        self.seeds.append(seed)
        apart: RttcParts = {**self.parts.parts(), "cache": None, "ledger_store": None}
        graph = create_rttc_graph(**apart)
        chosen = RttcSettings(policy=policy, seed=seed)
        return await ask(graph, question, domain=domain, settings=chosen)


def collection(*data_sets: DataSet, k: int = 8, model: str = "m") -> Collection:
    return Collection(
        data_sets=data_sets or (SHOP, MATH), model=model, settings={"k": k}, policies=MODEL_ARMS
    )


async def collected(
    path: Path, arms: Arms | None = None, wanted: Collection | None = None
) -> EvaluationRows:
    arms = arms or Arms()
    return await collect(
        wanted or collection(), arms, arms.parts.reward_model, RowLog(path / "rows.jsonl")
    )


async def test_each_arm_runs_once_for_each_question_and_data_sets_take_turns(
    tmp_path: Path,
) -> None:
    arms = Arms()
    rows = await collected(tmp_path, arms)
    asked = arms.asked[3:]  # behind the warm-up
    assert [(q, arm) for q, _, arm in asked[:6]] == [
        ("q0", "direct"),
        ("q0", "rag"),
        ("q0", "ttt"),
        ("m", "direct"),
        ("m", "rag"),
        ("m", "ttt"),
    ]
    assert len(asked) == len(rows.rows) == len(rows.judgements) == 12
    assert {domain for _, domain, _ in asked} == {"shop", None}
    rewards = {key.policy: found["reward"] for (key, _), found in rows.judgements.items()}
    assert rewards == {"direct": 0.2, "rag": 0.6, "ttt": 0.9}
    right = {(key.data_set, key.policy) for key, row in rows.rows.items() if row["right"]}
    assert right == {("shop", "rag"), ("math", "ttt")}


async def test_the_rows_of_arms_come_with_what_they_cost(tmp_path: Path) -> None:
    rows = await collected(tmp_path)
    for key, row in rows.rows.items():
        [candidate] = row["candidates"]
        assert candidate["reward"] is None
        assert (candidate["trained_tokens"] > 0) == (key.policy == "ttt")
        assert (row["seconds"]["training"] > 0) == (key.policy == "ttt")
        assert row["seconds"]["generation"] > 0
        assert (row["seconds"]["retrieval"] > 0) == (key.policy != "direct")


@pytest.mark.parametrize("most", [0, 3, 4, 8, 14])
async def test_a_killed_collection_goes_on_where_it_ended(tmp_path: Path, most: int) -> None:
    first, second = Arms(most=most), Arms()
    with pytest.raises(KeyboardInterrupt):
        await collected(tmp_path, first)
    path = tmp_path / "rows.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind": "answer", "digest"')  # cut by the kill
    rows = await collected(tmp_path, second)
    done = max(0, len(first.asked) - 3)
    waiting = 12 - done
    assert len(second.asked) - waiting in (1, 2, 3)  # the warm-up
    assert len(rows.rows) == len(rows.judgements) == 12
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert (kinds.count("settings"), kinds.count("answer"), kinds.count("judgement")) == (1, 12, 12)
    third = Arms(most=0)
    assert (await collected(tmp_path, third)).rows == rows.rows


async def test_other_settings_and_other_models_have_rows_of_their_own(tmp_path: Path) -> None:
    await collected(tmp_path)
    await collected(tmp_path, wanted=collection(k=4))
    rows = await collected(tmp_path, wanted=collection(model="other"))
    assert len(rows.rows) == 36
    with pytest.raises(ConfigurationError, match="2 different settings"):
        evaluated_questions(rows, list(rows.rows), "scripted")


async def test_a_failed_arm_counts_as_wrong_and_is_tried_again(tmp_path: Path) -> None:
    arms = Arms()
    arms.parts.policy_model.fails = {"ttt": PolicyModelError("out of memory")}
    rows = await collected(tmp_path, arms)
    failed = [row for row in rows.rows.values() if row["error"]]
    assert {(row["policy"], row["right"], len(row["candidates"])) for row in failed} == {
        ("ttt", False, 0)
    }
    assert "out of memory" in str(failed[0]["error"])
    [question, *_] = evaluated_questions(rows, collection().keys(), "scripted")
    assert replay(question.arms, "cascade", Gate(tau_r=0.95, arms=MODEL_ARMS)).ran == (
        "direct",
        "rag",
    )
    alone = replay(question.arms, "ttt", Gate(tau_r=0.5))
    assert alone.shares == {"direct": 1.0}  # as in the graph
    again = await collected(tmp_path)
    assert not any(row["error"] for row in again.rows.values())


async def test_another_reward_model_judges_without_a_new_answer(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "rows.jsonl")
    rows = await collected(tmp_path)
    seen: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        seen.append((done, total))

    other = ScriptedRewardModel(rewards={"rag": 0.99}, name="other", digest="other")
    keys = list(rows.rows)
    assert await judge_missing(rows, keys, other, log, on_progress=show) == 12
    assert await judge_missing(rows, keys, other, log) == 0
    assert seen == [(done, 12) for done in range(1, 13)]
    stored = await asyncio.to_thread(log.load)
    assert (len(stored.rows), len(stored.judgements)) == (12, 24)
    gate = Gate(tau_r=0.8, arms=MODEL_ARMS)
    by_first = policy_figures(
        evaluated_questions(stored, keys, "scripted"), ["cascade"], lambda q: gate
    )
    by_other = policy_figures(
        evaluated_questions(stored, keys, "other"), ["cascade"], lambda q: gate
    )
    assert by_first["policies"]["cascade"]["arms"] == {"ttt": 4}
    assert by_other["policies"]["cascade"]["arms"] == {"rag": 4}


async def test_a_judge_that_is_asked_later_sees_the_samples_of_the_run(tmp_path: Path) -> None:
    arms = Arms()

    async def ask_arm(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        result = await arms(question, domain=domain, policy=policy, seed=seed, warm_up=warm_up)
        return {**result, "samples": [sample(1)] if policy == "rag" else []}

    log = RowLog(tmp_path / "rows.jsonl")
    await collect(collection(), ask_arm, arms.parts.reward_model, log)
    stored = await asyncio.to_thread(log.load)
    other = ScriptedRewardModel(digest="other")
    await judge_missing(stored, list(stored.rows), other, log)
    seen = {
        (request["arm"], tuple(s["question"] for s in request.get("samples", ())))
        for request in other.requests
    }
    assert seen == {("direct", ()), ("rag", ("question 1",)), ("ttt", ())}


async def test_rows_of_earlier_releases_are_judged_without_samples(tmp_path: Path) -> None:
    rows = await collected(tmp_path)
    path = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("samples", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    old, other = await asyncio.to_thread(RowLog(path).load), ScriptedRewardModel(digest="other")
    assert await judge_missing(old, list(rows.rows), other, RowLog(path)) == 12
    assert {len(request.get("samples", ())) for request in other.requests} == {0}


@pytest.mark.parametrize(
    "content", ["no json\n", "[]\n", '{"kind": "answer"}\n', '{"digest": "d", "row": "r"}\n']
)
async def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"not a file of evaluation rows \(line 1\)"):
        await collected(tmp_path)
    assert path.read_text() == content


@pytest.mark.parametrize("data_sets", [(SHOP, SHOP), (DataSet(name="none", rows=[]),)])
async def test_a_data_set_that_is_empty_or_there_twice_is_refused(
    tmp_path: Path, data_sets: tuple[DataSet, ...]
) -> None:
    with pytest.raises(ConfigurationError, match=r"each name once|has no rows"):
        await collected(tmp_path, wanted=collection(*data_sets))


def judged(
    arm: Arm, reward: float, *, right: bool, seconds: float = 1.0, retrieval: float = 0.25
) -> JudgedArm:
    return JudgedArm(
        row={
            "kind": "answer",
            "digest": "d",
            "data_set": "s",
            "model": "m",
            "row": "r",
            "policy": arm,
            "seed": 0,
            "id": None,
            "domain": None,
            "question": "q",
            "reference": "a",
            "metadata": {},
            "candidates": [
                {
                    "arm": arm,
                    "answer": arm,
                    "reward": None,
                    "seconds": seconds,
                    "prompt_tokens": 10,
                    "completion_tokens": 2,
                    "trained_tokens": 100 if arm == "ttt" else 0,
                    "mean_logprob": -0.1,
                    "finish_reason": "stop",
                    "adapter": None,
                }
            ],
            "right": right,
            "seconds": {
                "generation": seconds,
                "retrieval": 0.0 if arm == "direct" else retrieval,
                "training": 4.0 if arm == "ttt" else 0.0,
            },
            "error": None,
        },
        reward=reward,
        judging_seconds=0.5,
    )


QUESTION: Mapping[Arm, JudgedArm] = {
    "direct": judged("direct", 0.3, right=False),
    "rag": judged("rag", 0.5, right=True),
    "ttt": judged("ttt", 0.9, right=False),
}


@pytest.mark.parametrize(
    ("policy", "tau_r", "ran", "seconds", "verdict"),
    [
        # generation 1 and judging 0.5 for each arm, retrieval 0.25 once, training 4
        pytest.param("direct", 0.8, ("direct",), 1.5, (0, False, False), id="direct"),
        pytest.param("rag", 0.8, ("rag",), 1.75, (1, False, True), id="rag-rejected"),
        pytest.param("ttt", 0.8, ("ttt",), 5.75, (0, True, False), id="ttt-accepted"),
        pytest.param("cascade", 0.2, ("direct",), 1.5, (0, True, False), id="at-once"),
        pytest.param("cascade", 0.5, ("direct", "rag"), 3.25, (1, False, False), id="second"),
        pytest.param(
            "cascade", 0.8, ("direct", "rag", "ttt"), 8.75, (0, True, True), id="to-the-end"
        ),
        pytest.param(
            "compare", 0.5, ("direct", "rag", "ttt"), 8.75, (0, True, False), id="compare"
        ),
    ],
)
def test_a_replay_against_a_hand_calculation(
    policy: PolicyName, tau_r: float, ran: tuple[Arm, ...], seconds: float, verdict: tuple[Any, ...]
) -> None:
    found = replay(QUESTION, policy, Gate(tau_r=tau_r, arms=MODEL_ARMS))
    assert found.ran == ran
    assert found.seconds == pytest.approx(seconds)
    assert (found.right, found.false_accept, found.false_reject) == verdict
    assert found.prompt_tokens == 10 * len(ran)


def test_a_cascade_may_begin_with_rag() -> None:
    low, high = Gate(tau_r=0.2, arms=RAG), Gate(tau_r=0.8, arms=RAG)
    assert replay(QUESTION, "cascade", low).ran == ("rag",)
    assert replay(QUESTION, "cascade", low).seconds == pytest.approx(1.75)
    assert replay(QUESTION, "cascade", high).ran == ("rag", "ttt")
    assert replay({"direct": QUESTION["direct"]}, "cascade", low).ran == ("direct",)


def test_the_gate_begins_with_rag_where_the_plain_model_is_never_right() -> None:
    draw = random.Random(3)
    questions = [question(number, draw) for number in range(60)]
    wrong = [
        replace(q, data_set="hard", arms={**q.arms, "direct": judged("direct", 0.55, right=False)})
        for q in questions
    ]
    easy = [
        replace(q, data_set="easy", arms={**q.arms, "direct": judged("direct", 0.65, right=True)})
        for q in questions
    ]
    found = cross_fitted([*wrong, *easy], Aim())
    begun = {(q.data_set, gate.arms[0]) for q, gate in found}
    assert begun == {("hard", "rag"), ("easy", "direct")}


def test_the_yardsticks_against_a_hand_calculation() -> None:
    assert (oracle(QUESTION).right, oracle(QUESTION).seconds) == (1.0, 1.75)
    nothing: Mapping[Arm, JudgedArm] = {**QUESTION, "rag": judged("rag", 0.5, right=False)}
    assert (oracle(nothing).right, oracle(nothing).seconds) == (0.0, 1.5)
    drawn = at_random(QUESTION, {"direct": 0.5, "rag": 0.25, "ttt": 0.25})
    assert drawn.right == 0.25
    assert drawn.seconds == pytest.approx(0.5 * 1.5 + 0.25 * 1.75 + 0.25 * 5.75)
    assert drawn.trained_tokens == 25


def test_a_paired_interval_is_narrow_where_both_agree() -> None:
    """200 questions, half of them hard for both; one policy is right on 10 more."""
    theirs = [float(n % 2) for n in range(200)]
    ours = [max(value, float(n < 20)) for n, value in enumerate(theirs)]
    mean, low, high = paired_difference(ours, theirs)
    assert mean == pytest.approx(0.05)
    # standard error of a share of 0.05 in 200: 0.0154
    assert low == pytest.approx(0.05 - 1.96 * 0.0154, abs=0.006)
    assert high == pytest.approx(0.05 + 1.96 * 0.0154, abs=0.006)
    assert paired_difference(ours, ours) == (0.0, 0.0, 0.0)
    assert paired_difference(ours, theirs, seed=1)[0] == mean


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 0.0])])
def test_what_is_not_paired_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="same questions"):
        paired_difference(ours, theirs)


async def test_a_report_has_tables_plots_and_figures(tmp_path: Path) -> None:
    rows = await collected(tmp_path)
    rows = await collected(tmp_path, wanted=collection(model="other|model"))
    questions = evaluated_questions(rows, list(rows.rows), "scripted")
    groups = grouped(questions, ["direct", "cascade"], lambda q: Gate(tau_r=0.8))
    names = [(group["model"], group["data_set"], group["rows"]) for group in groups]
    assert names[:3] == [(None, None, 8), ("m", None, 4), ("m", "shop", 3)]
    folder = tmp_path / "report"
    found = ReportInput(
        title="T", groups=groups, questions=questions, raw=questions, settings={"a": "b|c"}
    )
    written = await asyncio.to_thread(write_report, found, folder)
    text = written.read_text()
    pictures = {path.name for path in folder.glob("*.png")}
    assert all(f"]({name})" in text for name in pictures)
    assert {"arm-shares.png", "reliability.png", "accuracy-0-all-questions.png"} <= pictures
    assert "| oracle | 100.0% |" in text
    assert f"**{groups[0]['verdict']['text']}**" in text
    assert "- On the 3 questions of shop, m nothing can be told" in text  # each says about what
    assert "8 questions are too few for an interval: measure at least 20." in text
    assert " to +" not in text  # no interval is shown
    assert "| rag | 75.0% |" not in text  # not among the policies, so not among the arms
    assert "the cheapest arm within one standard error" in text
    assert "left out: majority answer, nearest sample, vote of samples; the rows of 8 of 8" in text
    assert json.loads((folder / "figures.json").read_text())["groups"][0]["rows"] == 8


def question(number: int, draw: random.Random) -> EvaluatedQuestion:
    """A hard or an easy question, on which rewards are right 9 times in 10."""
    arms: dict[Arm, JudgedArm] = {}
    for arm, chance in zip(MODEL_ARMS, (0.3, 0.6, 0.8), strict=True):
        right = draw.random() < chance
        reward = (
            draw.uniform(0.6, 0.7) if right == (draw.random() < 0.9) else draw.uniform(0.5, 0.6)
        )
        arms[arm] = judged(arm, reward, right=right)
    return EvaluatedQuestion(data_set="s", model="m", row=str(number), domain=None, arms=arms)


def test_cross_fitting_measures_with_what_the_other_questions_say() -> None:
    draw = random.Random(1)
    questions = [question(number, draw) for number in range(60)]
    found = cross_fitted(questions, Aim())
    assert [q.row for q, _ in found] == [q.row for q in questions]
    mine = [(q, gate) for q, gate in found if fold_number(f"s/{q.row}") == 0]
    others = [q for q in questions if fold_number(f"s/{q.row}") != 0]
    proposal = propose(others, Aim())
    assert {gate for _, gate in mine} == {proposal.chosen.gate}
    for calibrated, _ in mine:
        raw = questions[int(calibrated.row)]
        for arm, one in calibrated.arms.items():
            reward = raw.arms[arm].reward
            assert reward is not None
            assert one.reward == proposal.calibration.pooled.map(reward)


def blind(known: EvaluatedQuestion, draw: random.Random) -> EvaluatedQuestion:
    """The same answers with rewards that say nothing of them."""
    arms = {arm: replace(one, reward=draw.random()) for arm, one in known.arms.items()}
    return replace(known, data_set="blind", domain="blind", arms=arms)


def test_a_reward_that_tells_nothing_of_a_data_set_gates_nothing_there() -> None:
    draw = random.Random(5)
    known = [replace(question(n, draw), data_set="known", domain="known") for n in range(100)]
    unknown = [blind(q, draw) for q in known]
    gates: dict[str, set[float]] = {"known": set(), "blind": set()}
    for q, gate in cross_fitted([*known, *unknown], Aim(best=True)):
        gates[q.data_set].add(gate.tau_r)
    assert gates["blind"] == {0.0}
    assert min(gates["known"]) > 0
    assert {point.gate.tau_r for point in propose(unknown, Aim(best=True)).points} == {0.0}
    assert len(propose([*known, *unknown], Aim(best=True)).points) == 6 * len(GRID)


def test_a_calibration_learns_from_every_draw_and_rewards_every_draw() -> None:
    draw = random.Random(7)
    firsts = [question(number, draw) for number in range(60)]
    seconds = [question(number, draw) for number in range(60)]
    both = [
        replace(one, draws={arm: [one.arms[arm], two.arms[arm]] for arm in one.arms})
        for one, two in zip(firsts, seconds, strict=True)
    ]
    proposal = propose(both, Aim())
    assert proposal.calibration.pooled.pairs == 2 * 60 * 3
    seen = [answer.reward for q in proposal.questions for answer in q.answers]
    assert sorted(map(str, seen)) == sorted(map(str, proposal.calibration.pooled.held_out))
    for q in proposal.questions:
        assert all(q.draws[arm][0].reward == answer.reward for arm, answer in q.arms.items())


def test_a_proposal_uses_held_out_rewards_and_is_ready_to_be_stored() -> None:
    draw = random.Random(2)
    proposal = propose([question(number, draw) for number in range(60)], Aim(accuracy=0.5))
    rewards = [one.reward for q in proposal.questions for one in q.arms.values()]
    assert rewards == list(proposal.calibration.pooled.held_out)
    stored = proposal.stored("judge", "digest", all_domains=True)
    assert (stored.tau_r, stored.aim) == (proposal.chosen.gate.tau_r, "accuracy of at least 50.0%")
    assert probability_map(stored)(0.65, None) > probability_map(stored)(0.55, "any")
    with pytest.raises(ConfigurationError, match="rows of all arms"):
        propose([], Aim())


@pytest.mark.parametrize(
    ("change", "others"),
    [
        pytest.param({"k": 4}, True, id="k"),
        pytest.param({"samples_choice": "sift"}, True, id="the-choice-of-samples"),
        pytest.param({"samples_choice": "nearest"}, False, id="the-default-said-aloud"),
        pytest.param({"search_n": 4}, True, id="the-size-of-panels"),
        pytest.param({"search_from": ("rag",)}, True, id="what-panels-draw-from"),
        pytest.param({"search_temperature": 0.7}, False, id="a-later-default-said-aloud"),
        pytest.param({"tau_r": 0.9, "policy": "rag"}, False, id="what-a-replay-decides"),
    ],
)
def test_rows_are_of_the_settings_that_change_answers(
    change: dict[str, Any], others: bool, tmp_path: Path
) -> None:
    wanted = RowsWanted(data_sets=[SHOP], log=tmp_path / "rows")
    plain, changed = [
        wanted_collection(InstallationConfig(**given), wanted).digest_of("majority")
        for given in ({}, change)
    ]
    assert (changed != plain) is others
    assert plain == "6faa4ac6908825c8"  # of releases before panels: their rows are found again


async def drawn(path: Path, arms: Arms, *seeds: int) -> EvaluationRows:
    one = DataSet(name="shop", rows=SHOP.rows[:1])
    wanted = replace(collection(one), policies=("direct", "rag", "ttt"), seeds=seeds)
    return await collected(path, arms, wanted)


async def test_draws_with_their_seeds_stand_side_by_side_and_the_first_is_replayed(
    tmp_path: Path,
) -> None:
    """Three draws of one question, broken off in the second; each seed answers otherwise."""
    arms = Arms(most=3 + 4)  # the warm-up, one whole draw, and one row of the next
    with pytest.raises(KeyboardInterrupt):
        await drawn(tmp_path, arms, 5, 6, 7)
    assert arms.seeds == [5] * 6 + [6]
    again = Arms()
    again.parts.rewarding(direct=0.2, rag=0.3, ttt=0.4)
    rows = await drawn(tmp_path, again, 5, 6, 7)
    assert len(again.asked) - 5 in (2, 3)  # behind the warm-up of the policies that wait
    assert sorted((key.policy, key.seed) for key in rows.rows) == [
        (arm, seed) for arm in ("direct", "rag", "ttt") for seed in (5, 6, 7)
    ]
    assert len(rows.judgements) == 9
    stored = await asyncio.to_thread(RowLog(tmp_path / "rows.jsonl").load)
    assert stored.rows == rows.rows
    assert stored.judgements == rows.judgements

    [found] = evaluated_questions(stored, list(reversed(stored.rows)), "scripted")
    seeds = {arm: draw.row["seed"] for arm, draw in found.arms.items()}
    assert seeds == dict.fromkeys(MODEL_ARMS, 5)
    assert [draw.row["seed"] for draw in found.draws["rag"]] == [5, 6, 7]
    assert [draw.reward for draw in found.draws["rag"]] == [0.6, 0.3, 0.3]
    assert len(found.answers) == 9
    replayed = replay(found.arms, "cascade", Gate(tau_r=0.5, arms=MODEL_ARMS))
    assert (replayed.ran, replayed.reward) == (("direct", "rag"), 0.6)
    # One more seed later asks no old draw again.
    later = Arms()
    await drawn(tmp_path, later, 5, 6, 7, 8)
    assert set(later.seeds) == {8}


OLD_ANSWER = {
    "kind": "answer",
    "data_set": "shop",
    "model": "m",
    "id": None,
    "domain": "shop",
    "question": "q0",
    "reference": "rag",
    "metadata": {},
    "right": True,
    "seconds": {"generation": 1.0, "retrieval": 0.0, "training": 0.0},
    "error": None,
}


@pytest.mark.parametrize("seed", [0, 7])
async def test_rows_of_an_earlier_release_are_not_asked_again(tmp_path: Path, seed: int) -> None:
    """It wrote `arm` and one `candidate`, and the seed was among the settings of the digest."""
    settings = {"k": 8, "domain": None}
    text = json.dumps({**settings, "seed": seed}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert settings_digest(settings) == digest or seed
    one = DataSet(name="shop", rows=SHOP.rows[:1])
    [key] = row_keys(one.rows)
    lines: list[dict[str, Any]] = [
        {"kind": "settings", "digest": digest, "settings": {**settings, "seed": seed}}
    ]
    for arm in ("direct", "rag", "ttt"):
        named = {"digest": digest, "data_set": "shop", "model": "m", "row": key, "arm": arm}
        [candidate] = judged(arm, 0.5, right=True).row["candidates"]
        lines += [
            {**OLD_ANSWER, **named, "candidate": candidate},
            {
                "kind": "judgement",
                **named,
                "reward_model": "scripted",
                "fingerprint": "scripted",
                "reward": 0.5,
                "seconds": 0.1,
            },
        ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = Collection(
        data_sets=[one],
        model="m",
        settings=settings,
        seeds=(seed,),
        policies=MODEL_ARMS,
    )
    arms = Arms(most=0)
    rows = await collected(tmp_path, arms, wanted)
    assert arms.asked == []
    assert rows.settings == {settings_digest(settings): settings}
    [found] = evaluated_questions(rows, wanted.keys(), "scripted")
    assert {arm: draw.reward for arm, draw in found.arms.items()} == dict.fromkeys(MODEL_ARMS, 0.5)
    gate = Gate(tau_r=0.5, arms=MODEL_ARMS)
    assert replay(found.arms, "cascade", gate).right == 0  # "direct" is not "rag"


async def test_runs_for_real_in_the_same_file_are_not_replayed(tmp_path: Path) -> None:
    rows = await collected(tmp_path)
    log = RowLog(tmp_path / "rows.jsonl")
    real = replace(collection(k=4), policies=("cascade", "rag"))
    both = await collect(real, Arms(), None, log, rows=rows)
    assert len(both.rows) == 12 + 8
    assert both.replayable() == collection().keys()
    stored = await asyncio.to_thread(log.load)
    assert stored.rows == both.rows
    assert len(stored.judgements) == 12


def test_several_draws_of_greedy_answers_are_refused(tmp_path: Path) -> None:
    wanted = RowsWanted(data_sets=[SHOP], log=tmp_path / "rows", draws=3)
    with pytest.raises(ConfigurationError, match=r"draws 3 .* temperature above 0"):
        wanted_collection(InstallationConfig(), wanted)
    found = wanted_collection(InstallationConfig(temperature=0.7, seed=4), wanted)
    assert list(found.seeds) == [4, 5, 6]
    other = wanted_collection(InstallationConfig(temperature=0.7), wanted)
    assert found.digest_of("direct") == other.digest_of("direct")


def test_what_each_threshold_would_do_is_stored_with_a_calibration() -> None:
    draw = random.Random(2)
    named = [replace(question(number, draw), domain="d") for number in range(60)]
    proposal = propose(named, Aim(accuracy=0.5))
    curve = proposal.stored("judge", "digest").domains["d"].parameters[CURVE_KEY]
    arms = proposal.arms.get("d", proposal.arms[""])
    assert [row[0] for row in curve][:: len(curve) - 1] == [GRID[0], GRID[-1]]
    assert curve == sorted(curve)
    rewards = [q.arms for q in proposal.questions]
    replayed = {point.gate.tau_r: point for point in sweep(rewards, choices=[arms])}
    for tau_r, accuracy, seconds, accepted, wrong in curve:
        point = replayed[tau_r]
        assert (accuracy, seconds) == (round(point.accuracy, 4), round(point.seconds, 4))
        assert (accepted, wrong) == (round(point.accepted, 4), round(point.false_accepts, 4))
        assert wrong <= accepted
    assert (curve[0][3], curve[-1][3]) == (1.0, 0.0)
    for before, after in pairwise(curve):
        between = [p for tau, p in replayed.items() if before[0] < tau < after[0]]
        assert len({(p.accuracy, p.seconds, p.accepted) for p in between}) <= 1
