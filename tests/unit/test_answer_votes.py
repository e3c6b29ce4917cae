"""What a drawn answer votes for: equal where it means the same, none where it cannot be read."""

from __future__ import annotations

import pytest

from rttc_graph.search.answer_votes import MAX_CHARACTERS, read_vote, wants_number
from rttc_graph.state import FinishReason


@pytest.mark.parametrize(
    ("one", "other", "numeric"),
    [
        ("card arrival", "Card_Arrival.", False),
        ("72", "72.0", False),
        ("1,234", "1234", False),
        ("He pays 3 times 24. #### 72", "#### 72", False),
        ("So it is 72 euros.", "The answer: 72", True),
        ("\\frac{1}{2}", "0.5", True),
        # numbers, also where nobody said that one is wanted
        ("The answer is 45.", "45", False),
        ("So the final answer is: $45", "45.0", False),
        ("\\boxed{45}", "45", False),
        ("It is \\(\\boxed{\\frac{1}{2}}\\).", "1/2", False),
        ("Answer: 3/6", "0.5", False),
        ("1 1/2", "1.5", False),
        ("12 %", "12", False),
        # choices and labels
        ("(B)", "b", False),
        ("Answer: B.", "B", False),
        ("The correct option is (B).", "B", False),
        ("**Yes**", "yes", False),
        ("The label is card_arrival", "Card arrival", False),
        # formulas, where only blanks and a `*` differ
        ("2x + 2", "2x+2", False),
        ("2*x + 2", "2x+2", False),
        ("x = 5", "x=5", False),
        ("(3 + 4) / 7.", "(3+4)/7", False),
        ("(1)", "1", False),
    ],
)
def test_what_means_the_same_is_one_vote(one: str, other: str, numeric: bool) -> None:
    said = read_vote(one, finish_reason="stop", numeric=numeric)
    assert said is not None
    assert said == read_vote(other, finish_reason="stop", numeric=numeric)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5", "5"),
        ("no", "yes"),
        ("a b", "b a"),
        ("1/2", "2"),
        ("B", "A"),
        ("The answer is not B.", "B"),
        ("The answer", "answer"),
        ("7 - 3", "7 + 3"),
        ("1 2", "12"),
        ("2x+2", "2(x+1)"),  # equal, but only to one who can transform it
        ("gate 4 - left", "gate 4-left"),  # no formula: it has words
        ("yes, in 2 days", "yes, in 3 days"),
    ],
)
def test_what_differs_is_two(one: str, other: str) -> None:
    assert read_vote(one, finish_reason="stop") != read_vote(other, finish_reason="stop")


@pytest.mark.parametrize(
    ("text", "finish_reason", "numeric"),
    [
        ("", "stop", False),
        (" \n", "stop", False),
        ("I do not know.", "stop", False),
        ("The card was charged twi", "length", False),
        ("The card was", "budget", False),
        ("seventy-two", "stop", True),
    ],
)
def test_what_cannot_be_read_has_no_vote(
    text: str, finish_reason: FinishReason, numeric: bool
) -> None:
    assert read_vote(text, finish_reason=finish_reason, numeric=numeric) is None


def test_an_answer_that_was_marked_before_it_was_cut_short_votes() -> None:
    assert read_vote("3 * 24 #### 72", finish_reason="length") == "72"


def test_a_long_text_votes_by_a_short_one() -> None:
    text = "word " * 4_000
    said = read_vote(text, finish_reason="stop")
    assert said is not None
    assert len(said) == MAX_CHARACTERS
    assert said == read_vote(text.upper(), finish_reason="stop")
    assert said != read_vote(f"{text} more", finish_reason="stop")


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [((), False), (("4", "so #### 5"), True), (("4", "card arrival"), False)],
)
def test_numbers_are_wanted_where_all_samples_answer_with_one(
    answers: tuple[str, ...], wanted: bool
) -> None:
    assert wants_number(answers) is wanted
