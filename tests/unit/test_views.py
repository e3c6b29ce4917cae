"""Views of questions: what a transform writes, and what is read back from its answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError
from scripted_parts import sample

from rttc_graph.errors import ConfigurationError
from rttc_graph.run.prompts import augmented_examples, training_examples
from rttc_graph.settings import PromptSettings, RttcSettings, ViewKind
from rttc_graph.state import Sample
from rttc_graph.views.view import View
from rttc_graph.views.view_votes import PLAIN_VIEW, Ballot, elected, views_of


def solved(question: str, answer: str, number: int = 1) -> Sample:
    return {**sample(number), "question": question, "answer": answer}


def the_views(kind: ViewKind, query: str, *samples: Sample, each: int = 16) -> list[View]:
    return views_of(query, samples, [kind], each)


SQUARE = (
    "Find the rule.\n\nExample 1:\n\nInput:\n1 2\n3 4\nOutput:\n5 6 7\n8 9 0\n\n"
    "Input:\n1 1 2\n0 3 3"
)
LINE = "Example 1:\nInput:  0 1 1 0 2\nOutput: 0 0 1 1 2\n\nInput:\n3 3 0 0 1"


@pytest.mark.parametrize(
    ("query", "answer"),
    [(SQUARE, "2 1\n0 7\n4 4"), (LINE, "0 3 3 0 1"), ("Input:\n1,2,3\n4,5,6", "1,2\n3,4")],
    ids=["square", "line", "commas"],
)
def test_a_grid_comes_back_from_each_view(query: str, answer: str) -> None:
    found = the_views("grids", query, solved(query, answer))
    assert len(found) >= 12
    for view in found:
        [shown] = view.samples
        assert shown["question"] == view.query != query
        assert view.undo(shown["answer"]) == answer
        assert view.undo(f"The output is\n{shown['answer']}\n.") == f"The output is\n{answer}\n."
        assert view.undo("I see no grid") is None
    assert len({view.query for view in found}) == len(found)


def test_a_grid_of_lines_is_mirrored_and_not_turned() -> None:
    for view in the_views("grids", LINE):
        assert re.findall("[a-zA-Z]+:? *", view.query) == re.findall("[a-zA-Z]+:? *", LINE)
        assert len(view.query.split("\n")) == len(LINE.split("\n"))


def test_a_turn_changes_both_sides_of_every_grid() -> None:
    turned = next(v for v in the_views("grids", SQUARE) if "3 1\n4 2" in v.query)
    assert "8 5\n9 6\n0 7" in turned.query
    assert turned.query.startswith("Find the rule.\n\nExample 1:\n\nInput:\n3 1")


CHOICE = "Which is a hen?\nA) a stone\nB) a bird\nC) a cloud"


@pytest.mark.parametrize("said", ["B", "(c)", "The answer is A.", "b) it"])
def test_option_letters_come_back(said: str) -> None:
    given = {line[0]: line[3:] for line in CHOICE.split("\n")[1:]}
    for view in the_views("options", CHOICE):
        forth = {line[0]: line[3:] for line in view.query.split("\n")[1:]}
        assert sorted(forth.values()) == sorted(given.values())
        undone = view.undo(said)
        assert undone is not None
        [(old, new)] = {(a, b) for a, b in zip(said, undone, strict=True) if a != b} or {
            (letter_of(said), letter_of(said))
        }
        assert given[new.upper()] == forth[old.upper()]


def letter_of(said: str) -> str:
    """Return the letter that one of the texts above chooses."""
    [letter] = re.findall(r"\b[A-Ca-c]\b", said)
    return str(letter)


def test_an_option_view_keeps_what_a_sample_answers() -> None:
    other = solved("Which flies?\nA. a stone\nB. a hen", "B. a hen", 2)
    plain = solved("no options here", "free", 3)
    for view in the_views("options", CHOICE, solved(CHOICE, "B"), other, plain):
        first, second, third = view.samples
        [line] = [one for one in first["question"].split("\n") if one[3:] == "a bird"]
        assert first["answer"] == line[0]
        [line] = [one for one in second["question"].split("\n") if one[3:] == "a hen"]
        assert second["answer"][0] == line[0]
        assert third == plain
    assert the_views("options", "What is I. e. B) and A)?") == []


def test_labels_get_names_that_say_nothing_and_come_back() -> None:
    samples = [
        solved(f"q{n}", label, n) for n, label in enumerate(["card lost", "top up", "card lost"])
    ]
    found = the_views("labels", "is it card lost?", *samples)
    assert found
    for view in found:
        names = {
            one["answer"]: old["answer"] for one, old in zip(view.samples, samples, strict=True)
        }
        assert sorted(names.values()) == ["card lost", "top up"]
        assert "card lost" not in view.query
        for name, label in names.items():
            assert view.undo(f"{name.upper()}.") == label
        assert view.undo("card lost") is None
    assert the_views("labels", "q", *samples[:2]) == []  # none comes twice
    assert the_views("labels", "q", solved("a", "1"), solved("b", "1"), solved("c", "2")) == []


def test_names_are_exchanged_and_come_back() -> None:
    query = "Every day in May, Natalia and Tom share 3 apples. Natalia eats 2. How many has Tom?"
    other = solved("Then Natalia ran.", "Natalia ran to Tom.", 1)
    for view in the_views("names", query, other):
        assert not {"Natalia", "Tom"} & set(re.findall(r"\w+", view.query))
        assert {"Every", "May", "How"} <= set(re.findall(r"\w+", view.query))
        [shown] = view.samples
        assert view.undo(shown["answer"]) == "Natalia ran to Tom."
    assert the_views("names", "What is 2 and 3?", other) == []


def test_views_that_are_alike_are_one() -> None:
    assert len(the_views("options", "Q?\nA) x\nB) y")) == 1
    two = [sample(1), sample(2)]
    assert [v.samples[0]["id"] for v in the_views("order", "q", *two, each=1)] == [two[1]["id"]]
    assert the_views("order", "q", sample(1)) == []


@pytest.mark.parametrize(
    ("ballots", "winner"),
    [
        ("plain:a", 0),
        ("plain:a grids:b grids:c", 0),  # no two agree
        ("plain:a grids:b grids:b names:c", 1),
        ("plain:a grids:b grids:b grids:c names:c names:a", 1),  # what loses within is dropped
        ("plain:a grids:c grids:b grids:b names:b", 2),
        ("plain:- grids:b", 1),
        ("plain:- grids:-", 0),
        ("plain:a grids:b names:b", 1),
    ],
)
def test_the_vote_is_within_each_transform_and_then_across(ballots: str, winner: int) -> None:
    cast = [word.split(":") for word in ballots.split()]
    votes = [Ballot(transform=kind, vote=None if vote == "-" else vote) for kind, vote in cast]
    found = elected(votes)
    assert votes[found].vote == votes[winner].vote
    assert PLAIN_VIEW == "plain"


def test_an_adapter_learns_the_views_too() -> None:
    samples = [solved(LINE, "0 3 3 0 1", 1), solved(LINE.replace("1", "4"), "0 3 3 0 4", 2)]
    plain = training_examples(samples)
    assert augmented_examples(LINE, samples) == plain
    more = augmented_examples(LINE, samples, kinds=["grids"], each=2)
    assert more[:2] == plain
    assert len(more) == 6
    shown = PromptSettings(ttt_shown=1)
    turned = augmented_examples(LINE, samples, shown, kinds=["order"], each=1)
    assert len(turned) == len(training_examples(samples, shown))  # one other sample has one order


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"ttt_augment": "turn"}, "ttt_augment"),
        ({"ttt_augment": "order"}, "has order, which only samples in the prompt can tell"),
        ({"ttt_augment": ("grids", "labels")}, "leave out labels"),
        ({"ttt_views": 0}, "ttt_views=0"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigurationError, ValidationError), match=problem):
        RttcSettings(**given)


def test_adapters_of_other_views_are_not_recalled() -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"ttt_augment": "grids"},
        {"ttt_augment": "grids", "ttt_views": 3},
        {"ttt_augment": "grids,names"},
    ]
    assert len({RttcSettings(**one).training_fingerprint for one in settings}) == 4
    given: dict[str, Any] = {"ttt_augment": "names,grids,names"}
    assert RttcSettings(**given).ttt_augment == ("names", "grids")
