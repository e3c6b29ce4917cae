"""Where no answer can be acted on a run may decline, and no "I do not know" beats an answer."""

from __future__ import annotations

from typing import Any

import pytest
from graph_runs import Face, arms, ask, events, run
from langchain_core.messages import HumanMessage
from scripted_parts import Parts, recalling, sample

from rttc_graph import create_rttc_graph

UNKNOWN = "I do not know."


@pytest.mark.parametrize(
    ("below", "tau_r", "answer", "declined"),
    [
        pytest.param("decline", 0.9, "Ask a person.", True, id="below-it-declines"),
        pytest.param("decline", 0.5, "rag", False, id="accepted-is-answered"),
        pytest.param("answer", 0.9, "rag", False, id="not-asked-for"),
    ],
)
async def test_below_tau_r_a_run_may_decline(
    below: str, tau_r: float, answer: str, declined: bool, face: Face
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.6, ttt=0.2)
    output = await ask(parts, face, below=below, decline_text="Ask a person.", tau_r=tau_r)
    assert (output["answer"], output["declined"]) == (answer, declined)
    assert output["accepted"] == (tau_r < 0.6)
    assert (output["arm"], output["reward"]) == ("rag", 0.6)
    assert "rag" in [c["answer"] for c in output["candidates"]]
    [stored] = parts.ledger_store.runs
    assert (stored.answer, stored.declined) == (answer, declined)
    assert stored.candidate is not None
    assert stored.candidate["answer"] == "rag"


async def test_an_answer_that_was_not_judged_is_declined() -> None:
    parts = Parts()
    parts.reward_model.error = RuntimeError("down")
    output = await ask(parts, below="decline", tau_r=0)
    assert (output["answer"], output["declined"]) == (UNKNOWN, True)


async def test_the_message_is_what_is_answered() -> None:
    graph = create_rttc_graph(**Parts().parts())
    settings = {"below": "decline", "tau_r": 1.0}
    output = await run(graph, {"messages": [HumanMessage("q")]}, context=settings)
    said = output["messages"][-1]
    assert (said.text, said.response_metadata["declined"]) == (UNKNOWN, True)


@pytest.mark.parametrize(
    ("texts", "rewards", "arm", "accepted"),
    [
        pytest.param(
            {"rag": UNKNOWN}, {UNKNOWN: 0.643, "ttt": 0.297}, "ttt", False, id="grounded-wins"
        ),
        pytest.param(
            {"direct": UNKNOWN}, {UNKNOWN: 0.99, "rag": 0.7}, "rag", True, id="it-stops-no-run"
        ),
        pytest.param(
            {"rag": UNKNOWN, "ttt": UNKNOWN},
            {UNKNOWN: 0.6, "direct": 0.2},
            "rag",
            False,
            id="before-an-answer-from-nothing",
        ),
        pytest.param(
            {"direct": UNKNOWN, "rag": UNKNOWN, "ttt": UNKNOWN},
            {UNKNOWN: 0.99},
            "direct",
            False,
            id="nothing-else-there",
        ),
    ],
)
async def test_a_refusal_never_beats_a_grounded_answer_and_is_never_accepted(
    texts: dict[str, str], rewards: dict[str, float], arm: str, accepted: bool
) -> None:
    parts = Parts().rewarding(**rewards)
    parts.policy_model.texts = texts
    output = await ask(parts, tau_r=0.65)
    assert (output["arm"], output["accepted"]) == (arm, accepted)


@pytest.mark.parametrize(
    ("similarity", "lowest", "ran", "accepted"),
    [
        pytest.param(0.4, 0.5, ["direct"], False, id="too-far"),
        pytest.param(0.5, 0.5, ["direct"], True, id="just-near-enough"),
        pytest.param(0.1, 0.0, ["direct"], True, id="off"),
    ],
)
async def test_no_sample_near_enough_is_out_of_domain(
    similarity: float, lowest: float, ran: list[str], accepted: bool
) -> None:
    parts = Parts().rewarding(direct=0.95, rag=0.95)
    parts.knowledge_base.samples = [{**sample(n), "similarity": similarity} for n in (1, 2)]
    output = await ask(parts, min_similarity=lowest)
    assert (arms(output), output["accepted"]) == (ran, accepted)
    assert len(parts.knowledge_base.searches) == (lowest > 0)
    assert ("dropped" in events(output)) == (similarity < lowest)
    assert not parts.cache.states or similarity >= lowest  # other runs have other limits


async def test_samples_that_are_too_far_are_not_used_by_any_arm() -> None:
    parts = Parts().rewarding(rag=0.95)
    parts.cache.recalled = recalling(samples=[{**sample(1), "similarity": 0.3}])
    output = await ask(parts, policy="rag", min_similarity=0.5, below="decline")
    assert (output["declined"], output["sources"]) == (True, [])
    assert not any(
        turn["role"] == "assistant"
        for request in parts.policy_model.requests
        for turn in request.messages
    )


@pytest.mark.parametrize("policy", ["cascade", "compare", "nearest", "rag"])
@pytest.mark.parametrize(
    ("similarity", "settings", "is_used"),
    [
        pytest.param(0.24, {}, False, id="far-by-default"),
        pytest.param(0.25, {}, True, id="near-enough-by-default"),
        pytest.param(0.4, {"evidence_similarity": 0.41}, False, id="far"),
        pytest.param(-0.4, {"evidence_similarity": 0}, True, id="off"),
    ],
)
async def test_where_no_sample_is_evidence_the_plain_model_answers_and_may_be_accepted(
    similarity: float, settings: dict[str, Any], is_used: bool, policy: str, face: Face
) -> None:
    parts = Parts(arms=()).rewarding(**{"direct": 0.95, "answer 1": 0.95, "rag": 0.95})
    parts.knowledge_base.samples = [
        {**sample(1), "similarity": similarity},
        {**sample(2), "similarity": similarity - 0.1},  # all are used, or none
    ]
    output = await ask(parts, face, policy=policy, **settings)
    assert (arms(output) == ["direct"], bool(output["sources"])) == (not is_used, is_used)
    assert output["accepted"]
    told = [e["detail"] for e in output["ledger"] if e["event"] == "dropped"]
    assert len(told) == (not is_used)
    if told:
        lowest = settings.get("evidence_similarity", 0.25)
        assert f"below evidence_similarity={lowest}" in told[0]["reason"]
        assert not parts.cache.states  # what was not used is not remembered for the question


async def test_a_limit_of_a_run_holds_in_the_place_of_the_usual_one() -> None:
    parts = Parts().rewarding(rag=0.95)
    parts.knowledge_base.samples = [{**sample(1), "similarity": 0.2}]
    output = await ask(parts, policy="rag", min_similarity=0.1)
    assert (output["arm"], output["accepted"]) == ("rag", True)


async def test_without_a_limit_even_an_opposite_sample_is_used() -> None:
    parts = Parts().rewarding(rag=0.95)
    parts.knowledge_base.samples = [{**sample(1), "similarity": -0.4}]
    output = await ask(parts, policy="rag", evidence_similarity=0)
    assert (output["arm"], output["accepted"], len(output["sources"])) == ("rag", True, 1)


async def test_a_graph_without_samples_judges_by_reward_alone() -> None:
    parts = Parts().rewarding(direct=0.95)
    graph: Any = create_rttc_graph(policy_model=parts.policy_model, reward_model=parts.reward_model)
    output = await run(graph, {"query": "q"}, context={"min_similarity": 0.9})
    assert output["accepted"]
