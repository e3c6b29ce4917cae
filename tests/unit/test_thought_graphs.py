"""Graphs of thoughts without a model: splits as text, how they join a graph, what comes next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from made_draws import drawn

from rttc_graph.search.panel import MAX_ROUNDS, Panel
from rttc_graph.search.strategy import Choice, Thinking
from rttc_graph.search.thinking.graph_of_thoughts import GraphOfThoughts
from rttc_graph.search.thinking.thought_graph import planned, thought, twins_of
from rttc_graph.search.thinking.thought_split import (
    MAX_ANSWER_CHARACTERS,
    Part,
    condensed,
    read_parts,
    split_messages,
    split_schema,
    with_known,
)
from rttc_graph.settings import SearchSettings
from rttc_graph.state import Drawn, Thought

WHOLE = '{"questions":[{"question":"a?","needs":[]},{"question":"b  c?","needs":[1,1]}]}'
SAID = [
    pytest.param(WHOLE, [("a?", ()), ("b c?", (0, 0))], id="as-asked"),
    pytest.param(f"Sure:\n```json\n{WHOLE}\n```", [("a?", ()), ("b c?", (0, 0))], id="in-talk"),
    pytest.param(WHOLE[:50], [("a?", ())], id="cut-short"),
    pytest.param('["a?", "b?"]', [("a?", ()), ("b?", ())], id="bare-list"),
    pytest.param('{"plan":"x","steps":[{"q":"a?"}]}', [("a?", ())], id="other-names"),
    pytest.param('{"question":"a?","needs":"#2"}', [("a?", (1,))], id="alone"),
    pytest.param(
        '[{"question":"a?","needs":[true,-1,"x",2.5,"3",99999]}]', [("a?", (2,))], id="bad-needs"
    ),
    pytest.param("1. a?\n2) b of #1?\n- c?\nso", [("a?", ()), ("b of #1?", (0,)), ("c?", ())]),
    pytest.param('[{"question":""},{"question":"  "},{"needs":[1]},7,null]', [], id="empty"),
    pytest.param("I cannot split this.", [], id="nothing"),
    pytest.param("{" * 5_000 + '{"question":"a?"}', [], id="brackets"),
    pytest.param("[" * 100_000, [], id="deep-and-open"),
    pytest.param("[" * 9_000 + "]" * 9_000, [], id="deep-and-closed"),
]


@pytest.mark.parametrize(("text", "parts"), SAID)
def test_a_split_is_read_in_whatever_form_it_comes(
    text: str, parts: list[tuple[str, tuple[int, ...]]]
) -> None:
    assert read_parts(text) == [Part(*one) for one in parts]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_the_example_of_the_prompt_follows_the_schema(most: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    *_, example, asked = split_messages("Why?", most=most)
    jsonschema.validate(json.loads(example["content"]), json.loads(split_schema(most)))
    assert len(read_parts(example["content"])) == min(most, 3)
    assert asked["content"] == "Question: Why?"


def test_an_answer_stands_in_other_prompts_by_its_end() -> None:
    assert condensed("so\n it is  4") == "so it is 4"
    long = condensed("x" * 900 + " is 42")
    assert len(long) == MAX_ANSWER_CHARACTERS
    assert long.endswith(" is 42")
    assert with_known("c?", [("a?", "1"), ("b?", "2")]) == (
        "Worked out already:\n- a? 1\n- b? 2\n\nc?"
    )
    assert with_known("c?", []) == "c?"


def parts(*needs: Sequence[int]) -> list[Part]:
    return [Part(f"q{number}?", tuple(some)) for number, some in enumerate(needs)]


PLANS: list[Any] = [
    # needs as said, twins, most -> needs in the graph of 2 questions, parts, words of what is left
    pytest.param([(), (0,)], [None, None], 3, [(), (2,)], (2, 3), [], id="chain"),
    pytest.param([(1,), ()], [None, None], 3, [(3,), ()], (2, 3), [], id="a-later-one"),
    pytest.param([(0,)], [None], 3, [()], (2,), ["in a circle"], id="itself"),
    pytest.param(
        [(1,), (2,), (0,)], [None] * 3, 3, [(3,), (4,), ()], (2, 3, 4), ["circle"], id="circle"
    ),
    pytest.param([(5,)], [None], 3, [()], (2,), ["question 6, which is not there"], id="unknown"),
    pytest.param([(), (), ()], [None] * 3, 2, [(), ()], (2, 3), ["one more"], id="too-many"),
    pytest.param([(), (), (1,)], [None, 2, None], 3, [(), (2,)], (2, 3), ["repeats"], id="twice"),
    pytest.param([(), (0,)], [1, None], 3, [(1,)], (1, 2), ["repeats"], id="answered-already"),
    pytest.param([(), (0,)], [0, None], 3, [()], (2,), ["asked", "not there"], id="the-question"),
    pytest.param([()], [0], 3, [], (), ["is asked already"], id="nothing-new"),
    pytest.param([(), ()], [0, 2], 3, [], (), ["asked", "left out"], id="twice-the-question"),
]


@pytest.mark.parametrize(("needs", "twins", "most", "new", "places", "words"), PLANS)
def test_a_split_joins_the_graph_without_circles_and_repeats(
    needs: list[tuple[int, ...]],
    twins: list[int | None],
    most: int,
    new: list[tuple[int, ...]],
    places: tuple[int, ...],
    words: list[str],
) -> None:
    plan = planned(parts(*needs), twins, size=2, closed={1}, most=most)
    assert [one.needs for one in plan.new] == new
    assert plan.parts == places
    assert len(plan.dropped) == len(words)
    assert all(word in said for word, said in zip(words, plan.dropped, strict=True))


def test_a_question_that_is_too_long_is_left_out_and_others_do_not_wait_for_it() -> None:
    said = [Part("x" * 301), Part("b?", (0,))]
    plan = planned(said, [None, None], size=1, closed=(), most=3)
    assert [(one.question, one.needs) for one in plan.new] == [("b?", ())]
    assert "more than 300 characters" in plan.dropped[0]


NEAR = ([1.0, 0.0], [0.98, 0.199], [0.0, 1.0])
TWINS = [
    pytest.param(["What is A?"], ["what  is a"], (), [0], id="same-words"),
    pytest.param(["Where is A?"], ["In which place is A?"], NEAR[:2], [0], id="near"),
    pytest.param(["3 times 4?"], ["3 times 5?"], NEAR[:2], [None], id="near-with-other-numbers"),
    pytest.param(["Where is A?"], ["Who is B?"], (NEAR[0], NEAR[2]), [None], id="far"),
    pytest.param(["Where is A?"], ["Who is B?", "who is b"], (), [None, 1], id="in-the-split"),
    pytest.param(["?"], ["!"], (), [None], id="no-words"),
]


@pytest.mark.parametrize(("known", "said", "vectors", "twins"), TWINS)
def test_questions_that_ask_the_same_are_found(
    known: list[str], said: list[str], vectors: Any, twins: list[int | None]
) -> None:
    assert twins_of(said, known, vectors, bound=0.95) == twins


# --- what comes next ---------------------------------------------------------------------------


def node(status: str = "answered", reward: float | None = None, **more: Any) -> Thought:
    answer = "" if status == "open" else "4"
    one = {**thought("q?"), "status": status, "reward": reward, "answer": answer, "parent": 0}
    return cast("Thought", {**one, "depth": 1, **more})


def root(status: str = "split", **more: Any) -> Thought:
    return cast("Thought", {**node(status), "parent": None, "depth": 0, "answer": "", **more})


def panel(
    *thoughts: Thought,
    drawn: Sequence[Drawn] = (drawn("a", 0.2),),
    rounds_left: int = MAX_ROUNDS - 1,
    size: int = 8,
    **settings: int,
) -> Panel:
    return Panel(
        size=size,
        proposers=("direct", "rag"),
        drawn=tuple(drawn),
        tau_r=0.5,
        thoughts=thoughts,
        settings=SearchSettings(**cast("Any", settings)),
        rounds_left=rounds_left,
    )


def test_the_question_is_answered_directly_first_and_room_is_left_for_the_last() -> None:
    first = GraphOfThoughts().propose(panel(drawn=()))
    assert (first.draws, first.thinks) == ({"direct": 1, "rag": 1}, Thinking())
    assert GraphOfThoughts().propose(panel(drawn=(), size=2)).draws == {"direct": 1}
    assert GraphOfThoughts().propose(panel(drawn=(), size=1)).draws == {"direct": 1}


SPLIT = root(parts=[1, 2])
NEXT: list[Any] = [
    pytest.param(panel(root("answered")), Thinking(splits=(0,)), "below τr 0.5", id="below"),
    pytest.param(
        panel(root("answered"), drawn=[drawn("a", 0.5)]), None, "is at least τr 0.5", id="passes"
    ),
    pytest.param(
        panel(root("answered"), drawn=[drawn("a")]), None, "has no reward", id="nobody-judges"
    ),
    pytest.param(
        panel(root("answered"), drawn=[drawn("a", 0.1)], size=1), None, "search_n=1", id="no-room"
    ),
    pytest.param(
        panel(root("answered", why="the split names nothing")), None, "names nothing", id="no-parts"
    ),
    pytest.param(
        panel(SPLIT, node("open"), node("open", needs=[1])),
        Thinking(asks=(1,)),
        "1 answered",
        id="first-layer",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.9), node("open", needs=[1])),
        Thinking(asks=(2,)),
        "1 answered",
        id="second-layer",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.1), node("open", needs=[1])),
        Thinking(splits=(1,)),
        "1 split",
        id="a-part-below-is-split-before-what-needs-it",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.1), node("open"), thought_depth=1),
        Thinking(asks=(2,)),
        "1 answered",
        id="depth",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.1), node("open"), thoughts=2),
        Thinking(asks=(2,)),
        "1 answered",
        id="nodes",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.1), node(reward=0.1), thoughts=3),
        Thinking(splits=(1,)),
        "1 split",
        id="one-node-left",
    ),
    pytest.param(
        panel(SPLIT, node("split", parts=[3]), node("open"), node(reward=0.9, depth=2)),
        Thinking(asks=(2,), joins=(1,)),
        "1 answered, 1 joined",
        id="all-in-one-round",
    ),
    pytest.param(
        panel(SPLIT, node("joined", reward=0.3), node(reward=0.8)),
        Thinking(joins=(0,)),
        "from its parts",
        id="last",
    ),
    pytest.param(
        panel(SPLIT, node(reward=0.9), node("open"), rounds_left=1),
        Thinking(joins=(0,)),
        "from its parts",
        id="last-round",
    ),
    pytest.param(
        panel(SPLIT, node(answer="", reward=None, why="no room"), node(answer="", why="no room")),
        None,
        "no part of the question has an answer",
        id="nothing-known",
    ),
    pytest.param(panel(root("joined")), None, "is answered from its parts", id="end"),
    pytest.param(
        panel(SPLIT, node(reward=0.9), node(reward=0.9), drawn=[drawn("a", 0.1)], size=1),
        None,
        "all 1 answers are drawn",
        id="full",
    ),
    pytest.param(panel(), None, "not in the graph", id="no-graph"),
]


@pytest.mark.parametrize(("given", "thinks", "words"), NEXT)
def test_what_comes_next_in_a_graph(given: Panel, thinks: Thinking | None, words: str) -> None:
    found = GraphOfThoughts().propose(given)
    assert found.thinks == thinks
    assert not found.draws
    assert words in found.reason


@pytest.mark.parametrize(
    ("rewards", "place", "votes"),
    [((0.2, 0.6), 1, 1), ((0.6, 0.6), 0, 1), ((None, None), 0, 1), ((0.6, 0.2), 0, 1)],
)
def test_the_answer_from_the_parts_must_be_better(
    rewards: tuple[float | None, ...], place: int, votes: int
) -> None:
    draws = [drawn(vote, reward) for vote, reward in zip("ab", rewards, strict=True)]
    assert GraphOfThoughts().choose(panel(drawn=draws)) == Choice(place, votes)
