"""Answers that the samples give by themselves, and what rows of all ages say of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from scripted_parts import Parts

from rttc_graph.evaluation.baselines import (
    BASELINES,
    MAJORITY,
    NEAREST_SAMPLE,
    VOTE,
    MajorityAnswers,
    baseline_runs,
)
from rttc_graph.evaluation.collect import Collection, DataSet, collect
from rttc_graph.evaluation.evaluation_rows import EvaluationRow, EvaluationRows, RowLog
from rttc_graph.evaluation.policy_figures import evaluated_questions, policy_figures, real_figures
from rttc_graph.evaluation.replay import Gate
from rttc_graph.graph import RttcParts, create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm, Candidate, Sample
from rttc_graph.support.passages import KIND, PASSAGE
from rttc_graph.testing import MemoryKnowledgeBase


def sample(answer: str, similarity: float, **metadata: str) -> Sample:
    return {
        "id": answer,
        "question": f"about {answer}",
        "answer": answer,
        "domain": "d",
        "similarity": similarity,
        "metadata": metadata,
    }


def candidate(arm: Arm) -> Candidate:
    return {
        "arm": arm,
        "answer": "c",
        "reward": None,
        "seconds": 1.0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "trained_tokens": 0,
        "mean_logprob": None,
        "finish_reason": "stop",
        "adapter": None,
    }


def row(policy: str, *samples: Sample, answered: Arm | None = None, **more: Any) -> EvaluationRow:
    made: EvaluationRow = {
        "kind": "answer",
        "digest": "",
        "data_set": "s",
        "model": "m",
        "row": "r",
        "policy": policy,
        "seed": 0,
        "id": None,
        "domain": "d",
        "question": "q",
        "reference": "a",
        "metadata": {},
        "candidates": [] if answered is None else [candidate(answered)],
        "right": False,
        "seconds": {"generation": 9.0, "retrieval": 0.25, "training": 0.0},
        "error": None,
        "samples": list(samples),
    }
    made.update(more)  # type: ignore[typeddict-item]
    return made


def without_samples(made: EvaluationRow) -> EvaluationRow:
    made.pop("samples", None)
    return made


NEAR = (sample("b", 0.9), sample("a", 0.89), sample("A.", 0.85))
"""The nearest says b; of three votes those for a weigh more."""


def test_each_baseline_answers_by_its_own_rule_at_the_price_of_a_search() -> None:
    asked: list[str] = []

    def is_a(answer: str) -> bool:
        asked.append(answer)
        return answer == "a"

    rows = [row("nearest", *NEAR, answered="nearest", majority="z"), row("direct", majority="z")]
    found = baseline_runs(rows, is_a)
    assert asked == ["z", "b", "a"]
    assert [found[name].right for name in BASELINES] == [0, 0, 1]
    assert [found[name].seconds for name in BASELINES] == [0, 0.25, 0.25]
    assert all(run.completion_tokens == run.prompt_tokens == 0 for run in found.values())
    assert found[NEAREST_SAMPLE].reward == 0.9
    assert 0.5 < (found[VOTE].reward or 0) < 1


@pytest.mark.parametrize(
    ("rows", "known", "answered"),
    [
        pytest.param([without_samples(row("rag", answered="rag"))], set[str](), 0, id="of-0.1"),
        pytest.param([row("rag", answered="rag")], set[str](), 0, id="samples-that-were-not-kept"),
        pytest.param([row("direct", answered="direct")], set[str](), 0, id="nothing-was-searched"),
        pytest.param(
            [row("nearest"), row("rag")], {NEAREST_SAMPLE, VOTE}, 0, id="there-are-no-samples"
        ),
        pytest.param(
            [row("cascade", answered="rag"), row("rag", *NEAR)],
            {NEAREST_SAMPLE, VOTE},
            2,
            id="one-row-has-them",
        ),
        pytest.param(
            [row("rag", sample("text", 0.99, **{KIND: PASSAGE}))],
            {NEAREST_SAMPLE, VOTE},
            0,
            id="passages-answer-nothing",
        ),
        pytest.param([row("rag", *NEAR, majority=None)], set(BASELINES), 2, id="no-majority"),
        pytest.param(
            [row("majority", *NEAR, answered="majority")],
            {NEAREST_SAMPLE, VOTE},
            2,
            id="a-panel-has-them",
        ),
    ],
)
def test_what_rows_cannot_tell_is_missing(
    rows: list[EvaluationRow], known: set[str], answered: int
) -> None:
    found = baseline_runs(rows, lambda answer: answer == "b")
    assert set(found) == known
    assert sum(bool(run.shares) for run in found.values()) == answered


async def test_the_majority_answer_counts_one_answer_in_all_its_forms() -> None:
    base = MemoryKnowledgeBase()
    answers = ["Yes", "yes.", "no", "no", "YES", "maybe"]
    rows = [
        NewSample(question=f"q{n}", answer=answer, domain="d") for n, answer in enumerate(answers)
    ]
    passages = [
        NewSample(question=f"p{n}", answer="text", domain="d", metadata={KIND: PASSAGE})
        for n in range(9)
    ]
    others = [NewSample(question=f"o{n}", answer="no", domain="other") for n in range(2)]
    every = [*rows, *passages, *others]
    await base.ingest(every, [[1.0, 0.0]] * len(every), tenant="t")
    majority = MajorityAnswers(base, tenant="t")
    assert (await majority.most_common("d") or "").casefold().strip(".") == "yes"
    assert await majority.most_common(None) == "no"
    assert await majority.most_common("nowhere") is None
    assert await MajorityAnswers(base, tenant="other").most_common("d") is None


QUESTIONS = DataSet(
    name="shop", rows=[NewSample(question=f"q{n}", answer="rag", domain="shop") for n in range(3)]
)


async def collected(path: Path, arms: tuple[Arm, ...]) -> tuple[EvaluationRows, Collection]:
    parts = Parts().rewarding(direct=0.2, rag=0.6, ttt=0.9)
    parts.knowledge_base.domains = ("shop",)
    graph = create_rttc_graph(**cast("RttcParts", {**parts.parts(), "cache": None}))

    async def ask_arm(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        del seed, warm_up
        settings = RttcSettings(policy=policy)
        result = await ask(graph, question, domain=domain, settings=settings, with_samples=True)
        return {**result, "majority": "rag"}

    collection = Collection(data_sets=[QUESTIONS], model="m", settings={}, policies=arms)
    return await collect(collection, ask_arm, parts.reward_model, RowLog(path)), collection


async def test_a_run_returns_the_samples_in_hand_where_they_are_asked_for() -> None:
    graph = create_rttc_graph(**Parts().parts())
    plain = await ask(graph, "q")
    told = await ask(graph, "q", with_samples=True)
    assert "samples" not in plain
    assert [s["question"] for s in told.get("samples", [])] == ["question 1", "question 2"]


async def test_the_figures_have_the_baselines_and_say_what_old_rows_lack(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows, collection = await collected(path, ("nearest", "direct", "rag", "ttt"))
    gate = Gate(tau_r=0.5)

    def figures(found: EvaluationRows) -> Any:
        questions = evaluated_questions(found, collection.keys(), "scripted")
        return policy_figures(questions, ["rag", "cascade"], lambda q: gate)

    now = figures(rows)
    assert list(now["policies"]) == ["rag", "cascade", *BASELINES, "oracle", "random"]
    assert now["left_out"] == {}
    majority = now["policies"][MAJORITY]
    assert (majority["accuracy"], majority["seconds_mean"], majority["failed"]) == (1, 0, 0)
    assert majority["false_accepts"] is None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("majority", None)
        if line.get("samples") and line["row"] == collection.keys()[0].row:
            line["samples"] = []  # a release that asked for the samples and did not get them
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    old = figures(await asyncio.to_thread(RowLog(path).load))
    assert list(old["policies"]) == ["rag", "cascade", "oracle", "random"]
    assert old["left_out"] == {MAJORITY: 3, NEAREST_SAMPLE: 1, VOTE: 1}
    assert old["policies"]["oracle"] == now["policies"]["oracle"]


async def test_runs_for_real_have_baselines_too(tmp_path: Path) -> None:
    rows, collection = await collected(tmp_path / "rows.jsonl", ("rag", "ttt"))
    found = real_figures(rows, collection.keys(), tau_r=0.5)
    assert list(found["policies"]) == ["rag", "ttt", *BASELINES]
    assert found["policies"][MAJORITY]["accuracy"] == 1
