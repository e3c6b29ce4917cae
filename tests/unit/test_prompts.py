"""How questions, samples and conversations become prompts."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from scripted_parts import sample

from rttc_graph.errors import ConfigurationError
from rttc_graph.run.prompts import (
    PASSAGES_PROMPT,
    SYSTEM_PROMPT,
    adapted_messages,
    direct_messages,
    rag_messages,
    split_conversation,
    training_examples,
)
from rttc_graph.settings import PromptSettings
from rttc_graph.state import ChatTurn, Sample

HISTORY: list[ChatTurn] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
]


def lines(turns: tuple[ChatTurn, ...] | list[ChatTurn]) -> list[str]:
    return [f"{turn['role']}: {turn['content']}" for turn in turns]


def test_a_direct_prompt_is_the_system_prompt_and_the_query() -> None:
    assert lines(direct_messages("why")) == [f"system: {SYSTEM_PROMPT}", "user: why"]


def test_earlier_turns_stand_before_the_query() -> None:
    assert lines(direct_messages("why", HISTORY))[1:] == [
        "user: hello",
        "assistant: hi",
        "user: why",
    ]


def test_system_turns_of_a_conversation_replace_ours() -> None:
    system: list[ChatTurn] = [
        {"role": "system", "content": "be brief"},
        *HISTORY,
        {"role": "system", "content": "be kind"},
    ]
    got = lines(direct_messages("why", system))
    assert got[0] == "system: be brief\n\nbe kind"
    assert got[1:] == ["user: hello", "assistant: hi", "user: why"]


def passage(text: str) -> Sample:
    return {**sample(1), "question": "where", "answer": text, "metadata": {"kind": "passage"}}


def test_passages_stand_before_the_query_and_solved_questions_as_turns() -> None:
    found = [passage("near"), sample(2), passage("far")]
    alone = rag_messages("why", [found[1]], HISTORY)
    *turns, last = rag_messages("why", found, HISTORY)
    assert turns == list(alone[:-1])
    expected = f"{PASSAGES_PROMPT}\n\n[where]\nfar\n\n[where]\nnear\n\nwhy"
    assert last == {"role": "user", "content": expected}


def test_nothing_is_trained_on_a_passage() -> None:
    assert training_examples([passage("x"), sample(2)]) == training_examples([sample(2)])
    assert training_examples([passage("x")]) == ()


def test_samples_stand_behind_the_system_prompt_with_the_nearest_last() -> None:
    assert lines(rag_messages("why", [sample(1), sample(2)], HISTORY)) == [
        f"system: {SYSTEM_PROMPT}",
        "user: question 2",
        "assistant: answer 2",
        "user: question 1",
        "assistant: answer 1",
        "user: hello",
        "assistant: hi",
        "user: why",
    ]


def test_without_samples_a_rag_prompt_is_a_direct_one() -> None:
    assert rag_messages("why", [], HISTORY) == direct_messages("why", HISTORY)


def test_an_adapter_may_learn_each_answer_behind_the_nearest_others() -> None:
    """A question never stands behind itself; what is asked later has the same form."""
    samples = [sample(1), passage("x"), sample(2), sample(3)]
    prompts = PromptSettings(ttt_shown=2)
    examples = training_examples(samples, prompts)
    assert [example.answer for example in examples] == ["answer 1", "answer 2", "answer 3"]
    assert lines(examples[1].messages) == [
        f"system: {SYSTEM_PROMPT}",
        "user: question 3",
        "assistant: answer 3",
        "user: question 1",
        "assistant: answer 1",
        "user: question 2",
    ]
    asked = adapted_messages("why", samples, HISTORY, prompts)
    assert asked == rag_messages("why", [sample(1), sample(2)], HISTORY)
    (alone,) = training_examples([sample(1)], prompts)
    assert alone.messages == direct_messages("question 1")


def test_an_adapter_learns_the_answer_to_the_prompt_that_it_will_be_asked_with() -> None:
    (example,) = training_examples([sample(1)])
    assert example.messages == direct_messages("question 1")
    assert example.answer == "answer 1"


def test_a_conversation_is_split_into_query_and_turns() -> None:
    query, history = split_conversation(
        [
            SystemMessage("be brief"),
            HumanMessage("hello"),
            AIMessage("hi"),
            HumanMessage([{"type": "text", "text": "what is"}, {"type": "text", "text": " this"}]),
        ]
    )
    assert query == "what is this"
    assert lines(history) == ["system: be brief", "user: hello", "assistant: hi"]


def test_what_has_no_place_in_a_prompt_is_left_out() -> None:
    call = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])
    messages: list[AnyMessage] = [
        HumanMessage("hello"),
        call,
        ToolMessage("found", tool_call_id="1"),
        HumanMessage("why"),
    ]
    assert lines(split_conversation(messages)[1]) == ["user: hello"]


def test_turns_are_plain_strings_that_every_serialiser_knows() -> None:
    query, history = split_conversation([AIMessage("hi"), HumanMessage("why")])
    assert type(query) is str
    assert type(history[0]["content"]) is str


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([], "no input", id="there-is-no-message"),
        pytest.param(
            [HumanMessage("a"), AIMessage("b")], "got 'ai' last", id="the-last-is-an-answer"
        ),
        pytest.param([SystemMessage("a")], "got 'system' last", id="there-is-only-a-system-prompt"),
    ],
)
def test_a_conversation_must_end_with_a_question(messages: list[AnyMessage], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        split_conversation(messages)


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "file", "video", "chart"])
def test_a_question_with_a_part_that_is_no_text_is_refused(kind: str) -> None:
    parts: list[Any] = [{"type": "text", "text": "What is this?"}, {"type": kind}]
    with pytest.raises(ConfigurationError, match=rf"messages\[0\].*{kind}"):
        split_conversation([HumanMessage(parts)])


def test_an_earlier_answer_keeps_its_text_and_its_refusal() -> None:
    parts: list[Any] = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Let me see. "},
        {"type": "tool_use", "id": "c", "name": "balance", "input": {}},
        {"type": "refusal", "refusal": "No."},
    ]
    _, history = split_conversation([AIMessage(parts), HumanMessage("why \ud83d")])
    assert history == [{"role": "assistant", "content": "Let me see. No."}]


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert split_conversation([HumanMessage("why \ud83d")]) == ("why ?", [])
