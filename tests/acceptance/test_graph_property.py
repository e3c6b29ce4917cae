"""Promises that hold for whatever rewards come out and whatever breaks."""

from __future__ import annotations

import random

import pytest
from graph_runs import Output, ask, failures
from scripted_parts import Parts, recalling, sample, trained_adapter

from rttc_graph import BackendError, NoAnswerError, RttcSettings
from rttc_graph.arms import ARMS, policy_names
from rttc_graph.state import Plan

CASES = 200
CLOSED = {name for name, each in ARMS.attempts.items() if each.continues or each.weighs}
"""Arms that the scripted policy model cannot do."""
POLICIES = [name for name in policy_names() if name not in CLOSED]
PLAN: Plan = {
    "first": "rag",
    "edges": [0.3, 0.7],
    "bins": [
        {"arms": ["ttt"], "tau_r": 1.0},
        {"arms": ["direct", "ttt"], "tau_r": 0.5},
        {"arms": [], "tau_r": 0.0},
    ],
}


def random_parts(rng: random.Random) -> Parts:
    """Return parts that reward and fail at random; of few values, so that ties are common."""
    parts = Parts().rewarding(**{arm: rng.randrange(6) / 5 for arm in ("direct", "rag", "ttt")})
    parts.reward_model.plan = PLAN
    error = BackendError("broken")
    parts.policy_model.fails = {a: error for a in ("direct", "rag", "ttt") if rng.random() < 0.2}
    for part in (parts.reward_model, parts.embedder, parts.knowledge_base, parts.trainer):
        part.error = error if rng.random() < 0.08 else None
    methods = ("recall", "load_adapter", "get_or_train", "store", "remember", "discard_adapter")
    parts.cache.fails = {m: error for m in methods if rng.random() < 0.1}
    parts.knowledge_base.samples = [sample(n) for n in range(rng.randrange(3))]
    if rng.random() < 0.4:
        parts.cache.recalled = recalling(adapter="k1")
        parts.cache.stored["k1"] = trained_adapter("k1")
    return parts


def check(output: Output, parts: Parts, settings: RttcSettings) -> None:
    candidates = output["candidates"]
    judged = [c["reward"] for c in candidates if c["reward"] is not None]
    assert output["reward"] == max(judged, default=None)
    winner = next(c for c in candidates if c["reward"] == output["reward"])
    assert (output["answer"], output["arm"]) == (winner["answer"], winner["arm"])
    ran = [(c["arm"], c["adapter"]) for c in candidates]
    assert len(set(ran)) == len(ran) <= settings.budget_arms
    assert len(parts.trainer.trainings) <= 1
    assert len(parts.knowledge_base.searches) <= 1
    assert len(parts.policy_model.requests) <= 4 + settings.search.n
    assert len(failures(output["ledger"])) <= 8


@pytest.mark.parametrize("seed", range(4))
async def test_the_best_judged_answer_is_returned_and_no_arm_runs_twice(seed: int) -> None:
    rng = random.Random(seed)
    answered = 0
    for _ in range(CASES // 4):
        parts = random_parts(rng)
        policy, budget_arms = rng.choice(POLICIES), rng.randint(1, 4)
        settings = RttcSettings(policy=policy, budget_arms=budget_arms, tau_r=rng.random())
        try:
            output = await ask(parts, settings=settings)
        except NoAnswerError:
            assert "direct" in parts.policy_model.fails
        else:
            answered += 1
            check(output, parts, settings)
    assert answered > CASES // 8
