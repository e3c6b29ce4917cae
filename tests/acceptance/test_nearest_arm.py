"""The arm `nearest`: what the samples say, at the price of a search."""

from __future__ import annotations

import pytest
from graph_runs import Face, arms, ask, failures
from scripted_parts import Parts, ScriptedRewardModel, sample

from rttc_graph.errors import KnowledgeBaseError, PolicyModelError, RewardModelError
from rttc_graph.integrations.rewards.self_confidence import SelfConfidence
from rttc_graph.protocols import RewardModel
from rttc_graph.state import Sample


def free(**rewards: float) -> Parts:
    """Return parts of a graph that chooses the arms itself."""
    return Parts(arms=()).rewarding(**rewards)


def solved(number: int, answer: str, similarity: float) -> Sample:
    return {**sample(number), "answer": answer, "similarity": similarity}


async def test_it_costs_no_token_and_asks_no_model(face: Face) -> None:
    parts = free(**{"answer 1": 0.95})
    output = await ask(parts, face)
    assert (output["answer"], output["arm"], output["reward"]) == ("answer 1", "nearest", 0.95)
    [candidate] = output["candidates"]
    assert candidate["prompt_tokens"] == candidate["completion_tokens"] == 0
    assert (candidate["mean_logprob"], candidate["finish_reason"]) == (None, "stop")
    assert not parts.policy_model.requests
    assert not parts.trainer.trainings
    [told] = [entry for entry in output["ledger"] if entry["event"] == "answered"]
    assert told["detail"]["sample"] == sample(1)["id"]
    [stored] = parts.ledger_store.runs
    assert (stored.arm, stored.accepted, stored.tokens) == ("nearest", True, 0)


async def test_below_the_threshold_the_model_is_asked(face: Face) -> None:
    parts = free(**{"answer 1": 0.3, "rag": 0.5, "ttt": 0.4})
    output = await ask(parts, face)
    assert (arms(output), output["arm"]) == (["nearest", "rag", "ttt"], "rag")


async def test_it_is_no_generated_answer_of_the_budget() -> None:
    output = await ask(free(rag=0.2), budget_arms=1)
    assert arms(output) == ["nearest", "rag"]


VOTES = [
    pytest.param(1, "A", id="the-nearest"),
    pytest.param(2, "A", id="two-that-differ"),
    pytest.param(3, "Card arrival", id="two-of-three-in-other-letter-case"),
    pytest.param(4, "Card arrival", id="all-four"),
]


@pytest.mark.parametrize(("votes", "answer"), VOTES)
async def test_samples_vote_with_the_answer_of_the_nearest_of_the_winners(
    votes: int, answer: str
) -> None:
    parts = free()
    parts.knowledge_base.samples = [
        solved(1, "A", 0.9),
        solved(2, "Card arrival", 0.89),
        solved(3, "card arrival.", 0.88),
        solved(4, "B", 0.87),
    ]
    output = await ask(parts, policy="nearest", nearest_votes=votes)
    assert (output["arm"], output["answer"]) == ("nearest", answer)


async def test_its_answer_ends_before_a_stop_string() -> None:
    parts = free()
    parts.knowledge_base.samples = [solved(1, "card arrival. Reason: late; END", 0.9)]
    output = await ask(parts, policy="nearest", stop_strings=("END", ". Reason"))
    assert output["answer"] == "card arrival"


async def test_passages_do_not_vote(face: Face) -> None:
    passage: Sample = {**solved(1, "p", 0.99), "metadata": {"kind": "passage"}}
    parts = free(rag=0.95)
    parts.knowledge_base.samples = [passage, solved(2, "solved", 0.5)]
    assert (await ask(parts, face, policy="nearest"))["answer"] == "solved"
    parts.knowledge_base.samples = [passage]
    assert arms(await ask(parts, face)) == ["rag"]
    assert arms(await ask(parts, face, policy="nearest")) == ["direct"]


@pytest.mark.parametrize("policy", ["cascade", "compare", "nearest"])
async def test_where_there_are_no_samples_the_plain_model_answers(policy: str) -> None:
    parts = free(direct=0.3)
    parts.knowledge_base.samples = []
    assert arms(await ask(parts, policy=policy)) == ["direct"]
    parts.knowledge_base.error = KnowledgeBaseError("gone")
    assert arms(await ask(parts, policy=policy)) == ["direct"]


@pytest.mark.parametrize("policy", ["cascade", "compare"])
async def test_a_model_that_is_down_leaves_its_answer(face: Face, policy: str) -> None:
    parts = free(**{"answer 1": 0.3})
    down = PolicyModelError("connection refused")
    parts.policy_model.fails = dict.fromkeys(("direct", "rag", "ttt"), down)
    output = await ask(parts, face, policy=policy)
    assert (output["answer"], output["arm"], output["reward"]) == ("answer 1", "nearest", 0.3)
    assert any("connection refused" in failure for failure in failures(output["ledger"]))


async def test_a_judge_that_is_down_leaves_its_answer(face: Face) -> None:
    parts = free()
    parts.reward_model.error = RewardModelError("gone")
    output = await ask(parts, face)
    assert (output["answer"], output["reward"], arms(output)) == ("answer 1", None, ["nearest"])


async def test_an_answer_without_a_model_has_no_confidence_and_fails_no_judge() -> None:
    parts = free().parts()
    output = await ask({**parts, "reward_model": SelfConfidence()})
    assert arms(output)[:2] == ["nearest", "rag"]
    assert output["candidates"][0]["reward"] == 0.0
    assert failures(output["ledger"]) == []


class Choosing(ScriptedRewardModel):
    """A judge whose calibration has chosen arms."""

    chosen: tuple[str, ...] | Exception = ()

    async def chosen_arms(self) -> tuple[str, ...]:
        if isinstance(self.chosen, Exception):
            raise self.chosen
        return self.chosen


@pytest.mark.parametrize(
    ("chosen", "said", "ran"),
    [
        pytest.param(("nearest",), (), ["nearest"], id="nearest-only"),
        pytest.param(("rag", "nearest"), (), ["nearest", "rag"], id="two"),
        pytest.param(("nearest",), ("rag",), ["rag"], id="settings-go-first"),
        pytest.param((), (), ["nearest", "rag", "ttt"], id="nothing-chosen"),
        pytest.param(("gone",), (), ["nearest", "rag", "ttt"], id="an-arm-that-is-gone"),
        pytest.param(RewardModelError("down"), (), ["nearest", "rag", "ttt"], id="not-to-be-read"),
    ],
)
async def test_calibration_chooses_the_arms(
    face: Face,
    chosen: tuple[str, ...] | Exception,
    said: tuple[str, ...],
    ran: list[str],
) -> None:
    judge = Choosing()
    judge.chosen = chosen
    choosing: RewardModel = judge
    output = await ask({**Parts(arms=said).parts(), "reward_model": choosing}, face)
    assert arms(output) == ran
    assert bool(failures(output["ledger"])) == isinstance(chosen, Exception)
