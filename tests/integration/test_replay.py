"""A replay from rows says what the real graph does, on a tiny model that really trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from postgres_fixtures import NumberEmbedder

from rttc_graph.arms import MULTI_ARM, cascade_arms
from rttc_graph.evaluation.collect import Collection, DataSet, collect
from rttc_graph.evaluation.evaluation_rows import RowLog
from rttc_graph.evaluation.policy_figures import EvaluatedQuestion, evaluated_questions
from rttc_graph.evaluation.replay import Gate, replay
from rttc_graph.graph import RttcGraph, create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import NewSample
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Arm, Plan
from rttc_graph.testing import MemoryKnowledgeBase

RUNS: list[tuple[PolicyName, tuple[Arm, ...]]] = [
    *((policy, ("direct", "rag", "ttt")) for policy in (*MULTI_ARM, *cascade_arms())),
    *(
        (policy, arms)
        for policy in ("cascade", "compare")  # a plan has arms of its own
        for arms in ((), ("rag", "ttt"), ("nearest", "direct"))
    ),
]
SETTINGS = RttcSettings(max_new_tokens=4, k=2, ttt_min_steps=2, ttt_rank=2, use_cache=False)
PLAN: Plan = {
    "first": "direct",
    "edges": [0.01, 0.02],
    "bins": [
        {"arms": ["rag", "ttt"], "tau_r": 1.0},
        {"arms": ["ttt"], "tau_r": 1.0},
        {"arms": [], "tau_r": 0.0},
    ],
}
QUESTIONS = [NewSample(question=f"double of {n}", answer="x", domain="sums") for n in (3, 11, 42)]


class Planning(SelfConfidence):
    """Confidence of the model, with a plan as calibration keeps one."""

    plan: Plan = PLAN

    async def chosen_plan(self) -> Plan:
        return self.plan


@pytest.fixture
async def graph(tiny_engine: LocalEngine) -> RttcGraph:
    embedder, base = NumberEmbedder(), MemoryKnowledgeBase()
    solved = [
        NewSample(question=f"double of {n}", answer=str(2 * n), domain="sums")
        for n in range(50, 58)
    ]
    vectors = await embedder.embed([sample.question for sample in solved])
    await base.ingest(solved, vectors, tenant="default")
    return create_rttc_graph(
        policy_model=TransformersPolicyModel(tiny_engine),
        reward_model=Planning(),
        embedder=embedder,
        knowledge_base=base,
        trainer=LoraTrainer(tiny_engine),
        settings=SETTINGS,
    )


async def collected(
    graph: RttcGraph, path: Path, **settings: float
) -> tuple[list[EvaluatedQuestion], RttcSettings]:
    """Return the questions with rows that were made with some settings, and these."""
    made_with = SETTINGS.model_copy(update=settings)

    async def ask_arm(
        question: str, *, domain: str | None, policy: PolicyName, seed: int, warm_up: bool
    ) -> Mapping[str, Any]:
        del warm_up
        chosen = made_with.model_copy(update={"policy": policy, "seed": seed})
        return await ask(graph, question, domain=domain, settings=chosen)

    collection = Collection(
        data_sets=[DataSet(name="sums", rows=QUESTIONS)],
        model="tiny",
        settings=dict[str, object](settings),
    )
    judge = SelfConfidence()
    rows = await collect(collection, ask_arm, judge, RowLog(path / "rows.jsonl"))
    found = evaluated_questions(rows, collection.keys(), await judge.fingerprint())
    assert len(found) == len(QUESTIONS)
    return found, made_with


def thresholds(questions: Sequence[EvaluatedQuestion]) -> list[float]:
    """Thresholds between the rewards: each makes another set of answers pass."""
    rewards = sorted(j.reward for q in questions for j in q.answers if j.reward is not None)
    return [0.0, *((a + b) / 2 for a, b in pairwise(rewards)), 1.0]


@pytest.mark.timeout(300)  # 30 s on a free core
async def test_a_replay_runs_the_same_arms_and_gives_the_same_answer(
    graph: RttcGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, _ = await collected(graph, tmp_path)
    plain = sorted(q.arms["direct"].reward or 0.0 for q in questions)
    plan: Plan = {**PLAN, "edges": [(a + b) / 2 for a, b in pairwise(plain)]}  # a bin for each
    monkeypatch.setattr(Planning, "plan", plan)
    assert len(thresholds(questions)) == 13
    ends = set[tuple[Arm, ...]]()
    for question, row in zip(questions, QUESTIONS, strict=True):
        for policy, arms in RUNS:
            for tau_r in thresholds(questions):
                chosen = SETTINGS.model_copy(
                    update={"policy": policy, "arms": arms, "tau_r": tau_r}
                )
                real = await ask(graph, row.question, domain="sums", settings=chosen)
                found = replay(question.arms, policy, Gate(tau_r=tau_r, arms=arms, plan=plan))
                assert found.ran == tuple(c["arm"] for c in real["candidates"])
                assert list(found.shares) == [real["arm"]]
                # What is drafted changes a log-probability's last bits.
                assert found.reward == pytest.approx(real["reward"], rel=1e-5)
                for name in ("prompt_tokens", "completion_tokens", "trained_tokens"):
                    assert getattr(found, name) == sum(c[name] for c in real["candidates"])
                (arm,) = found.shares
                answer = question.arms[arm].candidate
                assert answer is not None
                assert answer["answer"] == real["answer"]
                ends.add(found.ran)
    assert {("direct",), ("direct", "rag"), ("direct", "rag", "ttt")} <= ends
    assert {("nearest",), ("nearest", "direct"), ("nearest", "rag", "ttt")} <= ends
    assert ("direct", "ttt") in ends  # by the plan alone


async def test_a_replay_knows_that_nothing_is_accepted_far_from_all_samples(
    graph: RttcGraph, tmp_path: Path
) -> None:
    """One question has a sample near enough; over the others the plain model answers at last."""
    nearest = [
        max(s["similarity"] for s in (await ask(graph, q.question, with_samples=True))["samples"])
        for q in QUESTIONS
    ]
    limit = sum(sorted(nearest)[-2:]) / 2
    questions, settings = await collected(graph, tmp_path, min_similarity=limit)
    outcomes: list[tuple[bool, tuple[Arm, ...]]] = []
    for question, row in zip(questions, QUESTIONS, strict=True):
        for policy in (*MULTI_ARM, "rag", "direct"):
            for arms in ((), ("direct", "nearest", "rag")):
                chosen = settings.model_copy(update={"policy": policy, "arms": arms, "tau_r": 0.0})
                real = await ask(graph, row.question, domain="sums", settings=chosen)
                found = replay(question.arms, policy, Gate(tau_r=0.0, arms=arms, plan=PLAN))
                assert found.ran == tuple(c["arm"] for c in real["candidates"])
                assert found.answers == real["accepted"]
                assert found.false_accept == real["accepted"]  # no answer is right here
                outcomes.append((real["accepted"], found.ran))
    assert {(True, ("nearest",)), (False, ("direct",)), (True, ("direct",))} <= set(outcomes)
