"""One budget of seconds, tokens and arms, which every node obeys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
import scripted_parts
from graph_runs import QUERY, Face, arms, ask, events, failures
from scripted_parts import Parts, sample

from rttc_graph import NoAnswerError, PolicyModelError, RttcSettings
from rttc_graph.run.backend_failures import GRACE_SECONDS
from rttc_graph.run.prompts import SYSTEM_PROMPT
from rttc_graph.state import ChatTurn

PROMPT_TOKENS = len(f"{SYSTEM_PROMPT} {QUERY}".split())
FOREVER = 3_600.0


@pytest.fixture(autouse=True)
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time that scripted parts take pass at once, for the event loops as well.

    So no test waits, and none depends on how busy the machine is.
    """
    real, passed = time.monotonic, [0.0]

    async def take(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(passed.append, seconds)
        await asyncio.sleep(seconds)

    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(passed))
    monkeypatch.setattr(scripted_parts, "take", take)


def low() -> Parts:
    return Parts().rewarding(direct=0.1, rag=0.2, ttt=0.3)


@pytest.mark.parametrize(
    ("allowed", "run"),
    [
        pytest.param(1, ["direct"], id="one"),
        pytest.param(2, ["direct", "rag"], id="two"),
        pytest.param(3, ["direct", "rag", "ttt"], id="three"),
    ],
)
async def test_a_budget_of_arms_ends_the_run(face: Face, allowed: int, run: list[str]) -> None:
    output = await ask(low(), face, budget_arms=allowed)
    assert arms(output) == run
    assert output["answer"] == run[-1]


async def test_with_one_arm_nothing_is_fetched(face: Face) -> None:
    parts = low()
    output = await ask(parts, face, budget_arms=1)
    assert parts.embedder.texts == []
    assert output["ledger"][-1]["detail"]["reason"] == "budget of arms is spent"


async def test_an_arm_that_failed_leaves_the_budget_of_arms_alone(face: Face) -> None:
    parts = low()
    parts.policy_model.fails = {"direct": PolicyModelError("out of memory")}
    assert arms(await ask(parts, face, budget_arms=1)) == ["rag"]


async def test_tokens_too_few_for_any_prompt_give_no_answer(face: Face) -> None:
    with pytest.raises(NoAnswerError, match=f"budget_tokens={PROMPT_TOKENS}") as raised:
        await ask(low(), face, budget_tokens=PROMPT_TOKENS)
    assert all("BudgetExceeded" in entry for entry in failures(raised.value.ledger))


async def test_tokens_bound_the_length_of_the_answer(face: Face) -> None:
    parts = low()
    await ask(parts, face, policy="direct", budget_tokens=PROMPT_TOKENS + 5, max_new_tokens=50)
    assert parts.policy_model.requests[0].max_new_tokens == 5


async def test_the_models_context_bounds_the_length_of_the_answer(face: Face) -> None:
    parts = low()
    parts.policy_model.context = PROMPT_TOKENS + 3
    await ask(parts, face, policy="direct", max_new_tokens=50)
    assert parts.policy_model.requests[0].max_new_tokens == 3


async def test_a_prompt_that_fills_the_models_context_gives_no_answer(face: Face) -> None:
    parts = low()
    parts.policy_model.context = PROMPT_TOKENS
    with pytest.raises(NoAnswerError, match=f"context is {PROMPT_TOKENS}"):
        await ask(parts, face, policy="direct")


async def test_tokens_too_few_for_a_training_leave_the_rag_answer(face: Face) -> None:
    # direct takes 9 and RAG 17 tokens; 2 samples of 7 tokens for 5 epochs take 70
    parts = low()
    output = await ask(parts, face, budget_tokens=80, max_new_tokens=10, ttt_epochs=5)
    assert arms(output) == ["direct", "rag"]
    assert parts.trainer.trainings == []
    (entry,) = failures(output["ledger"])
    assert entry.startswith("ttt_adapt: BudgetExceeded: training would take about 70 tokens")


async def test_trained_tokens_are_spent(face: Face) -> None:
    # after the training 9 + 17 + 40 of 74 tokens are gone, and the prompt takes the other 8
    parts = low()
    output = await ask(parts, face, ttt_min_steps=1, budget_tokens=74, max_new_tokens=10)
    assert arms(output) == ["direct", "rag"]
    assert len(parts.trainer.trainings) == 1
    assert "8 are left of budget_tokens=74" in failures(output["ledger"])[0]


async def test_samples_that_do_not_fit_are_dropped_farthest_first(face: Face) -> None:
    parts = low()
    parts.knowledge_base.samples = [sample(1), sample(2), sample(3)]
    parts.policy_model.context = PROMPT_TOKENS + 2 * 4 + 10  # 4 tokens a sample, 10 for the answer

    output = await ask(parts, face, policy="rag", max_new_tokens=10)

    shown = [turn["content"] for turn in parts.policy_model.requests[0].messages]
    assert shown[1:-1] == ["question 2", "answer 2", "question 1", "answer 1"]
    note = next(e for e in output["ledger"] if e["event"] == "shortened")
    assert note["detail"] == {"samples_dropped": 1}


@pytest.mark.parametrize("fitting", [0, 1, 2, 31, 63, 64])
async def test_samples_that_fit_are_counted_by_halves(
    fitting: int, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = low()
    parts.knowledge_base.samples = [sample(number) for number in range(64)]
    parts.policy_model.context = PROMPT_TOKENS + fitting * 4 + 10
    counted: list[int] = []
    count = type(parts.policy_model).count_tokens

    async def watched(self: object, messages: Sequence[ChatTurn]) -> int:
        counted.append(len(messages))
        return await count(parts.policy_model, messages)

    monkeypatch.setattr(type(parts.policy_model), "count_tokens", watched)
    output = await ask(parts, face, k=64, budget_arms=2, max_new_tokens=10)
    of_rag = [turns for turns in counted if turns > 2 and turns % 2 == 0]
    assert len(of_rag) <= 9  # all, 7 halvings, and the prompt that is asked
    if fitting:
        shown = parts.policy_model.requests[-1].messages
        assert len(shown) == 2 * fitting + 2
    else:
        assert "not one of 64 samples fits" in failures(output["ledger"])[0]


async def test_when_no_sample_fits_the_answer_in_hand_comes_back(face: Face) -> None:
    parts = low()
    parts.policy_model.context = PROMPT_TOKENS + 10
    output = await ask(parts, face, max_new_tokens=10, budget_arms=2)
    assert arms(output)[0] == "direct"
    assert "not one of 2 samples fits" in failures(output["ledger"])[0]


@pytest.mark.parametrize(
    ("what", "expected", "entry"),
    [
        pytest.param("embedder", "direct", "retrieve", id="the-embedder"),
        pytest.param("knowledge_base", "direct", "retrieve", id="the-knowledge-base"),
        pytest.param("trainer", "rag", "ttt_adapt", id="the-trainer"),
        pytest.param("cache", "direct", "retrieve", id="the-cache"),
    ],
)
async def test_a_part_that_hangs_is_cut_and_the_answer_in_hand_comes_back(
    face: Face, what: str, expected: str, entry: str
) -> None:
    parts = low()
    getattr(parts, what).seconds = FOREVER

    output = await ask(parts, face)

    assert output["answer"] == expected
    assert output["reward"] == parts.reward_model.rewards[expected]
    assert failures(output["ledger"])[0].startswith(f"{entry}: BudgetExceeded: ")
    assert output["seconds"] > RttcSettings().budget_seconds


async def test_a_trainer_that_is_cut_is_cancelled(face: Face) -> None:
    parts = low()
    parts.trainer.seconds = FOREVER
    await ask(parts, face)
    assert parts.trainer.cancelled == 1
    assert parts.trainer.resident == set()


async def test_a_policy_model_that_hangs_on_its_second_answer_leaves_the_first(face: Face) -> None:
    parts = low()
    parts.reward_model.rewards["direct"] = 0.1
    model = parts.policy_model

    async def slow_from_now_on(query: str, candidates: object) -> list[float]:
        del query, candidates
        model.seconds = FOREVER
        return [0.1]

    parts.reward_model.score = slow_from_now_on  # type: ignore[method-assign]  # scripted for one test

    output = await ask(parts.parts(), face)

    assert (output["answer"], arms(output)) == ("direct", ["direct"])
    assert model.cancelled >= 1
    assert failures(output["ledger"])[0].startswith("rag_generate: BudgetExceeded")


async def test_a_policy_model_that_hangs_at_once_gives_no_answer(face: Face) -> None:
    parts = low()
    parts.policy_model.seconds = FOREVER
    with pytest.raises(NoAnswerError, match="budget of seconds ended"):
        await ask(parts, face)
    assert parts.policy_model.cancelled >= 1


async def test_a_reward_model_that_hangs_leaves_the_answer_unjudged(face: Face) -> None:
    parts = low()
    parts.reward_model.seconds = FOREVER
    output = await ask(parts, face)
    assert (output["answer"], output["reward"]) == ("direct", None)
    assert failures(output["ledger"])[0].startswith("reward_judge: BudgetExceeded")


async def test_a_ledger_store_that_hangs_does_not_hold_the_answer(face: Face) -> None:
    parts = Parts().rewarding(direct=1.0)
    parts.ledger_store.seconds = FOREVER
    output = await ask(parts, face)
    assert output["answer"] == "direct"
    assert failures(output["ledger"])[0].startswith("reward_judge: BudgetExceeded")


async def test_a_policy_model_that_stops_at_the_deadline_by_itself_is_waited_for(
    face: Face,
) -> None:
    parts = low()
    parts.policy_model.seconds = RttcSettings().budget_seconds + GRACE_SECONDS / 2
    output = await ask(parts, face)
    assert (output["answer"], output["reward"]) == ("direct", None)  # no time to judge it


async def test_an_answer_that_was_cut_at_the_deadline_is_judged(face: Face) -> None:
    parts = Parts().rewarding(direct=0.95)
    parts.policy_model.finish_reason = "budget"
    output = await ask(parts, face)
    assert (output["answer"], output["reward"]) == ("direct", 0.95)
    assert output["candidates"][0]["finish_reason"] == "budget"


async def test_a_deadline_before_the_first_token_is_no_answer(face: Face) -> None:
    parts = low()
    parts.policy_model.finish_reason = "budget"
    parts.policy_model.texts = {"direct": " ", "rag": "", "ttt": "\n"}
    with pytest.raises(NoAnswerError, match="no text came within budget_seconds=120"):
        await ask(parts, face)


async def test_what_was_spent_is_added_up(face: Face) -> None:
    output = await ask(low(), face)
    seconds = [c["seconds"] for c in output["candidates"]]
    assert all(s > 0 for s in seconds)
    assert output["seconds"] >= sum(seconds)
    assert events(output)[-1] == "remembered"
