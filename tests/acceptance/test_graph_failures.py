"""Whatever fails, the best answer so far comes back, and the ledger says what failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from graph_runs import TAU_R, Face, arms, ask, events, failures
from scripted_parts import Parts, recalling, trained_adapter

from rttc_graph import (
    AdaptationError,
    EmbeddingError,
    KnowledgeBaseError,
    NoAnswerError,
    PolicyModelError,
    QueryStateCacheError,
    RewardModelError,
)
from rttc_graph.protocols import Generation, GenerationRequest
from rttc_graph.state import Candidate


def broken(what: str, error: Exception) -> Parts:
    """Return parts of which one fails at everything."""
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    getattr(parts, what).error = error
    return parts


@pytest.mark.parametrize(
    ("what", "error", "expected", "entry"),
    [
        pytest.param(
            "embedder",
            EmbeddingError("no gpu"),
            "direct",
            "retrieve: EmbeddingError: no gpu",
            id="the-embedder",
        ),
        pytest.param(
            "knowledge_base",
            KnowledgeBaseError("no database"),
            "direct",
            "retrieve: KnowledgeBaseError: no database",
            id="the-search",
        ),
        pytest.param(
            "trainer",
            AdaptationError("out of memory"),
            "rag",
            "ttt_adapt: AdaptationError: out of memory",
            id="the-trainer",
        ),
        pytest.param(
            "trainer",
            RuntimeError("CUDA error"),
            "rag",
            "ttt_adapt: RuntimeError: CUDA error",
            id="the-trainer-with-an-error-of-a-vendor",
        ),
        pytest.param(
            "ledger_store",
            OSError("disk full"),
            "ttt",
            "reward_judge: OSError: disk full",
            id="the-ledger-store",
        ),
    ],
)
async def test_a_part_that_fails_leaves_the_best_answer(
    face: Face, what: str, error: Exception, expected: str, entry: str
) -> None:
    output = await ask(broken(what, error), face)
    assert output["answer"] == expected
    assert failures(output["ledger"]) == [entry]


@pytest.mark.parametrize(
    ("method", "node"),
    [
        pytest.param("recall", "retrieve", id="recall"),
        pytest.param("get_or_train", "ttt_adapt", id="get-or-train"),
        pytest.param("store", "ttt_adapt", id="store-after-the-training"),
        pytest.param("remember", "reward_judge", id="remember"),
    ],
)
async def test_a_cache_that_fails_costs_the_cache_and_not_an_arm(
    face: Face, method: str, node: str
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    parts.cache.fails = {method: QueryStateCacheError("no database")}

    output = await ask(parts, face)

    assert arms(output) == ["direct", "rag", "ttt"]
    assert output["answer"] == "ttt"
    assert len(parts.trainer.trainings) == 1
    (entry,) = failures(output["ledger"])
    assert entry.startswith(f"{node}: ")
    assert "no database" in entry


async def test_a_recalled_adapter_that_cannot_be_loaded_leads_to_rag(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.9)
    parts.cache.recalled = recalling(adapter="k1")
    parts.cache.fails = {"load_adapter": QueryStateCacheError("damaged")}

    output = await ask(parts, face)

    assert arms(output) == ["direct", "rag"]
    assert output["cache"]["adapter"] == "miss"
    assert failures(output["ledger"]) == ["retrieve: QueryStateCacheError: damaged"]


async def test_an_adapter_that_cannot_be_discarded_costs_nothing(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.6, ttt=0.3)
    parts.cache.fails = {"discard_adapter": QueryStateCacheError("no database")}

    output = await ask(parts, face)

    assert output["answer"] == "rag"
    assert len(parts.cache.states) == 1
    assert len(failures(output["ledger"])) == 1


@pytest.mark.parametrize(
    ("arm", "expected", "run"),
    [
        pytest.param("direct", "ttt", ["rag", "ttt"], id="direct"),
        pytest.param("rag", "ttt", ["direct", "ttt"], id="rag"),
        pytest.param("ttt", "rag", ["direct", "rag"], id="ttt"),
    ],
)
async def test_a_policy_model_that_fails_on_one_arm_leaves_the_others(
    face: Face, arm: str, expected: str, run: list[str]
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)
    parts.policy_model.fails = {arm: PolicyModelError("out of memory")}

    output = await ask(parts, face)

    assert (output["answer"], arms(output)) == (expected, run)
    node = "rag_generate" if arm == "rag" else "generate"
    assert failures(output["ledger"]) == [f"{node}: PolicyModelError: out of memory"]


async def test_an_adapter_whose_answer_failed_is_not_discarded(face: Face) -> None:
    """Nobody knows yet whether it is any good."""
    parts = Parts().rewarding(direct=0.1, rag=0.2)
    parts.policy_model.fails = {"ttt": PolicyModelError("out of memory")}

    await ask(parts, face)

    assert parts.cache.discarded == []
    assert len(parts.cache.stored) == 1


@pytest.mark.parametrize("policy", ["rag", "ttt"])
async def test_a_policy_of_one_arm_falls_back_to_the_plain_model(face: Face, policy: str) -> None:
    parts = broken("knowledge_base", KnowledgeBaseError("no database"))
    output = await ask(parts, face, policy=policy)
    assert arms(output) == ["direct"]
    assert output["reward"] == 0.1


async def test_a_recalled_adapter_that_cannot_answer_is_found_again_after_rag(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2)
    parts.cache.recalled = recalling(adapter="k1")
    parts.cache.stored["k1"] = trained_adapter("k1")
    parts.policy_model.fails = {"ttt": PolicyModelError("adapter damaged")}

    output = await ask(parts, face)

    assert arms(output) == ["direct", "rag"]
    assert len(failures(output["ledger"])) == 2  # the recalled one and the trained one


@pytest.mark.parametrize("policy", ["cascade", "compare", "direct", "rag", "ttt"])
async def test_a_reward_model_that_fails_leaves_the_answer_unjudged(
    face: Face, policy: str
) -> None:
    parts = broken("reward_model", RewardModelError("no gpu"))
    first = "direct" if policy in ("cascade", "compare") else policy

    output = await ask(parts, face, policy=policy)

    assert (output["answer"], output["reward"], arms(output)) == (first, None, [first])
    assert failures(output["ledger"]) == ["reward_judge: RewardModelError: no gpu"]


async def test_a_reward_model_that_fails_later_leaves_the_best_judged_answer(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=math.nan)
    output = await ask(parts, face)
    assert (output["answer"], output["reward"]) == ("direct", 0.1)
    assert [c["reward"] for c in output["candidates"]] == [0.1, None]


@pytest.mark.parametrize(
    "reward", [math.nan, math.inf, -0.1, 1.2, "high"], ids=lambda reward: str(reward)
)
async def test_a_reward_out_of_range_is_a_failure(face: Face, reward: Any) -> None:
    output = await ask(Parts().rewarding(direct=reward), face)
    assert (output["answer"], output["reward"]) == ("direct", None)
    (entry,) = failures(output["ledger"])
    assert repr(reward) in entry or "must be real number" in entry


@pytest.mark.parametrize("rewards", [[], [0.9, 0.9]], ids=["none", "two"])
async def test_a_wrong_number_of_rewards_is_a_failure(face: Face, rewards: list[float]) -> None:
    parts: Any = Parts().parts()

    async def score(query: str, candidates: Sequence[Candidate]) -> list[float]:
        del query, candidates
        return rewards

    parts["reward_model"].score = score

    output = await ask(parts, face)

    assert output["reward"] is None
    assert f"gave {len(rewards)} rewards for 1 answers" in failures(output["ledger"])[0]


@pytest.mark.parametrize("answers", [0, 2], ids=["none", "two"])
async def test_a_wrong_number_of_answers_is_a_failure(face: Face, answers: int) -> None:
    parts: Any = Parts().parts()
    made = Generation(
        text="a", prompt_tokens=1, completion_tokens=1, mean_logprob=None, finish_reason="stop"
    )

    async def generate(
        requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        del requests, deadline
        return [made] * answers

    parts["policy_model"].generate = generate

    with pytest.raises(NoAnswerError, match=f"returned {answers} answers and was asked for 1"):
        await ask(parts, face, policy="direct")


async def test_a_wrong_number_of_vectors_is_a_failure(face: Face) -> None:
    parts: Any = Parts().rewarding(direct=0.1).parts()

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        del texts
        return []

    parts["embedder"].embed = embed

    output = await ask(parts, face)

    assert output["answer"] == "direct"
    assert "0 vectors for 1 text" in failures(output["ledger"])[0]


async def test_no_answer_at_all_raises_with_the_ledger(face: Face) -> None:
    parts = Parts()
    parts.policy_model.fails = {
        "direct": PolicyModelError("d"),
        "rag": PolicyModelError("r"),
        "ttt": PolicyModelError("t"),
    }

    with pytest.raises(NoAnswerError) as raised:
        await ask(parts, face)

    assert "direct: PolicyModelError: d; rag: PolicyModelError: r; ttt: PolicyModelError: t" in str(
        raised.value
    )
    assert failures(raised.value.ledger) == [
        "generate: PolicyModelError: d",
        "rag_generate: PolicyModelError: r",
        "generate: PolicyModelError: t",
    ]
    assert parts.reward_model.scored == []
    assert parts.cache.states == []
    assert parts.ledger_store.runs == []


async def test_a_finished_run_is_recorded(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.95)
    parts.reward_model.seconds = 0.1

    output = await ask(parts, face, domain="math", tenant="acme")

    (run,) = parts.ledger_store.runs
    assert (run.tenant, run.domain, run.policy, run.tau_r) == ("acme", "math", "cascade", TAU_R)
    assert (run.arm, run.reward, run.accepted) == ("rag", 0.95, True)
    tokens = sum(c["prompt_tokens"] + c["completion_tokens"] for c in output["candidates"])
    assert run.tokens == tokens
    assert run.entries == output["ledger"]
    assert 0.2 < run.seconds <= output["seconds"], "each step's seconds count once"
    assert "failed" not in events(output)


async def test_rewards_of_another_number_type_become_plain_numbers(face: Face) -> None:
    class Half(float):
        """Like numpy's float64: a float that no serialiser knows."""

    output = await ask(Parts().rewarding(direct=Half(0.95)), face)

    assert type(output["reward"]) is float
    judged = next(e for e in output["ledger"] if e["event"] == "judged")
    assert [type(reward) for reward in judged["detail"]["rewards"]] == [float]


async def test_only_passages_are_found_so_nothing_is_trained_and_the_ledger_says_why(
    face: Face,
) -> None:
    parts = Parts().rewarding(direct=0.1, ttt=0.9)
    for stored in parts.knowledge_base.samples:
        stored["metadata"] = {"kind": "passage"}
    output = await ask(parts, face)
    assert arms(output) == ["direct", "rag"]
    (failure,) = failures(output["ledger"])
    assert failure.startswith("ttt_adapt: AdaptationError: there are only passages of documents")
