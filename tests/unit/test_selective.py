"""Questions without an answer, and accuracy against the share of questions that are answered."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from scripted_parts import ScriptedEmbedder

from rttc_graph.calibration.aims import Aim
from rttc_graph.calibration.proposal import propose
from rttc_graph.errors import BadSampleError
from rttc_graph.evaluation.evaluation_rows import EvaluationRow
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, policy_figures
from rttc_graph.evaluation.replay import Gate, JudgedArm, ReplayedRun, at_random, oracle, replay
from rttc_graph.evaluation.report import ReportInput, write_report
from rttc_graph.evaluation.scorers import choose_scorer, is_right
from rttc_graph.evaluation.selective import MAX_POINTS, answered_at, selective
from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples
from rttc_graph.samples.ingest import ingest
from rttc_graph.samples.rows import NO_ANSWER, is_unanswerable
from rttc_graph.state import Arm
from rttc_graph.testing import MemoryKnowledgeBase

pa: Any = importlib.import_module("pyarrow")  # untyped
pq: Any = importlib.import_module("pyarrow.parquet")

DARK = NewSample(question="q", answer=NO_ANSWER, domain="d", metadata={"unanswerable": True})


def run(
    reward: float | None, *, right: bool, unanswerable: bool = False, answers: bool = True
) -> ReplayedRun:
    return ReplayedRun(
        right=float(right),
        seconds=1.0,
        prompt_tokens=0,
        completion_tokens=0,
        trained_tokens=0,
        shares={"rag": 1.0},
        reward=reward,
        unanswerable=unanswerable,
        answers=answers,
    )


def test_the_area_against_a_hand_calculation() -> None:
    found = selective([run(0.9, right=True), run(0.7, right=False), run(0.5, right=True)])
    assert found is not None
    assert [(p["answered"], p["accuracy"]) for p in found["points"]] == [
        (pytest.approx(1 / 3), 1.0),
        (pytest.approx(2 / 3), 0.5),
        (1.0, pytest.approx(2 / 3)),
    ]
    assert found["area"] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert found["best_area"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    point = answered_at(found, 0.6)
    assert point is not None
    assert point["tau_r"] == 0.5
    assert answered_at(found, 1.1) is None


def test_equal_rewards_count_in_no_order_and_what_is_never_given_comes_last() -> None:
    alike = [run(0.5, right=n < 2) for n in range(4)]
    found = selective([*alike, run(0.9, right=False, answers=False)])
    assert found is not None
    [point] = found["points"]
    assert (point["answered"], point["accuracy"], point["declined"]) == (0.8, 0.5, None)
    assert found["area"] == pytest.approx((0.5 * 4 + 2 / 5) / 5)
    assert selective(list(reversed([*alike, run(0.9, right=False, answers=False)]))) == found
    assert selective([run(None, right=True)]) is None


def test_an_answer_to_a_question_without_one_is_wrong_and_declining_it_is_told() -> None:
    found = selective(
        [
            run(0.9, right=True),
            run(0.8, right=False, unanswerable=True),
            run(0.3, right=True, unanswerable=True),
        ]
    )
    assert found is not None
    assert [p["accuracy"] for p in found["points"]] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [p["declined"] for p in found["points"]] == [1.0, 0.5, 0.0]


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    found = selective([run(n / 1000, right=True) for n in range(1, 1001)])
    assert found is not None
    assert len(found["points"]) <= MAX_POINTS
    assert found["points"][-1]["answered"] == 1
    assert found["area"] == found["best_area"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "right"), [("I do not know.", True), ("blue", False), ("unanswerable", True)]
)
def test_only_an_i_do_not_know_is_right_where_there_is_no_answer(text: str, right: bool) -> None:
    assert is_right(text, DARK) is right
    assert is_right(text, DARK, "number") is right  # no reference that a scorer could refuse


def test_questions_without_an_answer_do_not_choose_the_scorer() -> None:
    labels = [NewSample(question=str(n), answer="card arrival", domain="d") for n in range(3)]
    assert choose_scorer([*labels, *[DARK] * 30]) == choose_scorer(labels)


def judged(arm: Arm, answer: str, reward: float, *, right: bool) -> JudgedArm:
    row: EvaluationRow = {
        "kind": "answer",
        "digest": "",
        "data_set": "s",
        "model": "m",
        "row": "r",
        "policy": arm,
        "seed": 0,
        "id": None,
        "domain": None,
        "question": "q",
        "reference": NO_ANSWER,
        "metadata": {"unanswerable": True},
        "candidates": [
            {
                "arm": arm,
                "answer": answer,
                "reward": None,
                "seconds": 1.0,
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "trained_tokens": 0,
                "mean_logprob": None,
                "finish_reason": "stop",
                "adapter": None,
            }
        ],
        "right": right,
        "seconds": {"generation": 1.0, "retrieval": 0.0, "training": 0.0},
        "error": None,
    }
    return JudgedArm(row=row, reward=reward, judging_seconds=0.0)


INVENTED = judged("rag", "blue", 0.6, right=False)
REFUSED = judged("rag", "I do not know.", 0.9, right=True)


@pytest.mark.parametrize(
    ("arm", "tau_r", "right", "false_accept"),
    [
        pytest.param(INVENTED, 0.5, 0.0, True, id="accepted"),
        pytest.param(INVENTED, 0.7, 1.0, False, id="below-the-threshold"),
        pytest.param(REFUSED, 0.5, 1.0, False, id="refused"),
    ],
)
def test_a_run_is_right_if_it_accepts_nothing(
    arm: JudgedArm, tau_r: float, right: float, false_accept: bool
) -> None:
    found = replay({"rag": arm}, "rag", Gate(tau_r=tau_r))
    assert (found.right, found.false_accept, found.false_reject) == (right, false_accept, False)
    assert found.unanswerable
    assert found.answers == (arm is INVENTED)
    assert at_random({"rag": arm}, {"rag": 1.0}, tau_r).right == right
    assert oracle({"rag": arm}).right == 1


def test_a_refusal_of_a_high_reward_is_no_false_accept() -> None:
    wrong = {**REFUSED.row, "metadata": {}, "right": False}
    refused = replace(REFUSED, row=cast("EvaluationRow", wrong))
    found = replay({"rag": refused}, "rag", Gate(tau_r=0.5))
    assert (found.right, found.false_accept, found.answers) == (0, False, False)


def evaluated(*arms: JudgedArm) -> list[EvaluatedQuestion]:
    return [
        EvaluatedQuestion(
            data_set="s", model="m", row=str(n), domain=None, arms={arm.row["policy"]: arm}
        )
        for n, arm in enumerate(arms)
    ]


def test_a_reward_learns_that_no_answer_is_right_there() -> None:
    """Else the refusals, which get low rewards, would make a low reward a good one."""
    known = judged("rag", "a", 0.9, right=True)
    known = JudgedArm(row={**known.row, "metadata": {}}, reward=known.reward, judging_seconds=0.0)
    refused = judged("rag", "I do not know.", 0.1, right=True)
    fitted = propose(evaluated(*[known] * 40, *[refused] * 40), Aim()).calibration.pooled.map
    assert fitted(0.1) < 0.2 < 0.8 < fitted(0.9)


async def test_the_report_shows_what_selective_answering_gives(tmp_path: Path) -> None:
    questions = evaluated(INVENTED, REFUSED)
    group = policy_figures(questions, ["rag"], lambda q: Gate(tau_r=0.5))
    assert group["unanswerable"] == 2
    found = ReportInput(title="T", groups=[group], questions=questions, raw=questions, settings={})
    text = (await asyncio.to_thread(write_report, found, tmp_path)).read_text()
    assert "2 questions, 2 of them without an answer" in text
    assert "| all questions | rag | 0.0% | 0.0% | 0.0% | 0.0% |" in text
    assert (tmp_path / "selective.png").read_bytes().startswith(b"\x89PNG")


JSONL = '{"question": "q", "unanswerable": true}\n{"question": "p", "answer": "a"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", JSONL),
        ("x.jsonl", JSONL.replace("true}", 'true, "answer": null}')),
        ("x.jsonl", JSONL.replace('"unanswerable": true', '"metadata": {"unanswerable": true}')),
        ("x.csv", "question,answer,unanswerable\nq,,yes\np,a,\n"),
        ("x.csv", "Question,Answer,Unanswerable\nq,,TRUE\np,a,false\n"),
        ("x.parquet", ""),
    ],
)
def test_files_of_all_kinds_mark_questions_without_an_answer(
    tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        columns = {"question": ["q", "p"], "answer": [None, "a"], "unanswerable": [True, None]}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text(content)
    dark, plain = read_samples(path)
    assert (dark.answer, dark.metadata) == (NO_ANSWER, {"unanswerable": True})
    assert is_unanswerable(dark.metadata)
    assert (plain.answer, plain.metadata) == ("a", {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": "q", "answer": null}', "unanswerable = true"),
        ('{"question": "q", "unanswerable": "maybe"}', "must be true or false"),
        ('{"question": "q", "unanswerable": false}', "answer is missing"),
    ],
)
def test_what_is_not_marked_needs_an_answer(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(BadSampleError, match=reason):
        list(read_samples(path))


async def test_a_question_without_an_answer_is_no_sample(tmp_path: Path) -> None:
    base = MemoryKnowledgeBase()
    with pytest.raises(BadSampleError, match="a sample needs an answer"):
        await ingest([DARK], base, ScriptedEmbedder(), tenant="t")
    path = tmp_path / "x.jsonl"
    path.write_text(JSONL)
    skipping = await asyncio.to_thread(read_samples, path, skip_bad=True, unique_ids=True)
    report = await ingest(skipping, base, ScriptedEmbedder(), tenant="t")
    assert (report.stored, report.skipped) == (1, 1)
