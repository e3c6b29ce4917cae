"""A person is asked before a training: what stops, what each answer leads to, what it costs."""

from __future__ import annotations

from typing import Any, cast

import pytest
from graph_runs import Face, arms, events, run
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError
from scripted_parts import Parts

from rttc_graph import ConfigurationError, create_rttc_graph
from rttc_graph.installation.ask_question import ask
from rttc_graph.settings import PolicyName, RttcSettings

CONFIG: RunnableConfig = {"configurable": {"thread_id": "1"}}


def asking(policy: PolicyName = "cascade") -> RttcSettings:
    return RttcSettings(ask_before_training=True, policy=policy, tau_r=0.9)


async def waiting(parts: Parts, face: Face, settings: RttcSettings) -> tuple[Any, dict[str, Any]]:
    """Return a graph whose run waits for a person, and what that person is shown."""
    graph = create_rttc_graph(checkpointer=InMemorySaver(), **parts.parts())
    output = await run(graph, {"query": "q"}, face, context=settings, thread="1")
    (question,) = output["__interrupt__"]
    assert parts.trainer.trainings == []
    return graph, cast("dict[str, Any]", question.value)


@pytest.mark.parametrize(
    ("choice", "answer", "ttt_events"),
    [
        pytest.param("train", "ttt", ["trained"], id="train"),
        pytest.param("skip", "rag", ["skipped"], id="go-on-without"),
        pytest.param("accept", "rag", ["skipped"], id="accept-what-is-there"),
    ],
)
async def test_a_run_goes_on_as_the_person_says(
    face: Face, choice: str, answer: str, ttt_events: list[str]
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.8)
    graph, shown = await waiting(parts, face, asking())
    assert (shown["query"], shown["answer_so_far"], shown["reward_so_far"]) == ("q", "rag", 0.2)

    resume = cast("Any", Command(resume={"choice": choice}))
    output = await run(graph, resume, face, context=asking(), thread="1")

    assert output["answer"] == answer
    assert events(output, of="ttt_adapt") == ttt_events
    assert len(parts.trainer.trainings) == (choice == "train")


@pytest.mark.parametrize(
    ("choice", "expected"), [("skip", ["direct", "rag"]), ("accept", ["direct"])]
)
async def test_skipping_leaves_the_other_arms_open_and_accepting_does_not(
    face: Face, choice: str, expected: list[str]
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2)
    graph, _ = await waiting(parts, face, asking())
    # The state of a run that has not tried RAG, as a host's own policy might have it.
    state = graph.get_state(CONFIG).values
    left = {"tried": ["direct"], "candidates": state["candidates"][:1], "decision": "ttt_adapt"}
    graph.update_state(CONFIG, left, as_node="reward_judge")
    await run(graph, cast("Any", None), face, context=asking(), thread="1")

    resume = cast("Any", Command(resume={"choice": choice}))
    output = await run(graph, resume, face, context=asking(), thread="1")

    assert arms(output) == expected


@pytest.mark.parametrize("choice", ["skip", "accept"])
async def test_without_an_answer_so_far_the_plain_model_answers(face: Face, choice: str) -> None:
    graph, shown = await waiting(Parts(), face, asking("ttt"))
    assert shown["answer_so_far"] is None

    resume = cast("Any", Command(resume={"choice": choice}))
    output = await run(graph, resume, face, context=asking("ttt"), thread="1")

    assert arms(output) == ["direct"]


async def test_a_wrong_answer_leaves_the_run_waiting(face: Face) -> None:
    graph, _ = await waiting(Parts().rewarding(direct=0.1, rag=0.2, ttt=0.8), face, asking())
    with pytest.raises(ValidationError) as raised:
        await run(graph, cast("Any", Command(resume="maybe")), face, context=asking(), thread="1")
    assert any('{"choice": "accept"}' in note for note in raised.value.__notes__)

    resume = cast("Any", Command(resume={"choice": "train"}))
    assert (await run(graph, resume, face, context=asking(), thread="1"))["answer"] == "ttt"


async def test_where_nobody_can_answer_the_setting_is_refused() -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2)
    graph = create_rttc_graph(**parts.parts())
    with pytest.raises(ConfigurationError, match="without a checkpointer"):
        await ask(graph, "q", settings=asking())
