"""Answers against references, as tables."""

from __future__ import annotations

import importlib
import time
from fractions import Fraction
from typing import Any

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import (
    EARLY_ROWS,
    ExactMatchWatch,
    ScorerName,
    check_reference,
    choose_scorer,
    is_right,
    normalised,
    scorer_for,
    token_f1,
)
from rttc_graph.protocols import NewSample
from rttc_graph.support.numbers import is_number, last_number

GSM8K = "Half of 48 is 24.\n48 + 24 = 72\n#### 72"


def row(answer: str, **metadata: Any) -> NewSample:
    return NewSample(question="q", answer=answer, domain="d", metadata=metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("72", Fraction(72), id="digits"),
        pytest.param("first 3, then 5.", Fraction(5), id="the-last-one-before-a-full-stop"),
        pytest.param("$1,234.50", Fraction(2469, 2), id="currency-and-thousands"),
        pytest.param("1,234,567", Fraction(1234567), id="two-thousands-commas"),
        pytest.param("3,5", Fraction(5), id="a-comma-between-two-numbers"),
        pytest.param("12,3456", Fraction(3456), id="a-comma-that-groups-nothing"),
        pytest.param("-7", Fraction(-7), id="negative"),
        pytest.param("\u22127", Fraction(-7), id="negative-in-typography"),
        pytest.param("x = -$5", Fraction(-5), id="sign-before-currency"),
        pytest.param("$-5", Fraction(-5), id="sign-behind-currency"),
        pytest.param("10-3", Fraction(3), id="a-minus-between-numbers-is-no-sign"),
        pytest.param("a 10-year plan", Fraction(10), id="a-hyphen-is-no-sign"),
        pytest.param("3/4 of it", Fraction(3, 4), id="fraction"),
        pytest.param("-1 / 2", Fraction(-1, 2), id="spaced-negative-fraction"),
        pytest.param("1/0", None, id="division-by-zero"),
        pytest.param(".5", Fraction(1, 2), id="no-leading-zero"),
        pytest.param("0.10", Fraction(1, 10), id="trailing-zero"),
        pytest.param("50 %", Fraction(50), id="percent"),
        pytest.param("1.5e3", Fraction(1500), id="exponent"),
        pytest.param("2e-2", Fraction(1, 50), id="negative-exponent"),
        pytest.param(GSM8K, Fraction(72), id="behind-the-final-mark"),
        pytest.param("#### 5 (of 9)\n#### 8", Fraction(8), id="behind-the-last-final-mark"),
        pytest.param("3 apples\n####", None, id="nothing-behind-the-final-mark"),
        pytest.param("no idea", None, id="no-number"),
        pytest.param("", None, id="empty"),
        pytest.param("9" * 5000, None, id="absurdly-long"),
        pytest.param(r"\boxed{42} (see step 3)", Fraction(42), id="boxed"),
        pytest.param(
            r"\boxed{1}, no: \boxed{\text{about } 7{,}000} 3", Fraction(7000), id="last-box"
        ),
        pytest.param(r"\boxed{12", Fraction(12), id="box-cut-off"),
        pytest.param(r"\boxed{\dfrac{-1}{2}}", Fraction(-1, 2), id="fraction-of-latex-in-a-box"),
        pytest.param(r"-\frac12", Fraction(-1, 2), id="fraction-of-digits"),
        pytest.param(r"$2\tfrac{3}{4}$", Fraction(11, 4), id="mixed-fraction-of-latex"),
        pytest.param("1 1/2 cups", Fraction(3, 2), id="mixed-fraction"),
        pytest.param("1\u00bd cups", Fraction(3, 2), id="fraction-in-one-character"),
        pytest.param("1 234 567", Fraction(1234567), id="spaces"),
        pytest.param("1\u202f234\u202f567", Fraction(1234567), id="narrow-spaces"),
        pytest.param("1\u2009234,50", Fraction(2469, 2), id="thin-space-and-decimal-comma"),
        pytest.param("1\u2019234", Fraction(1234), id="apostrophe"),
        pytest.param("1_000", Fraction(1000), id="underscore"),
        pytest.param(r"1\,234", Fraction(1234), id="thin-space-of-latex"),
        pytest.param("12,34,567", Fraction(1234567), id="lakhs"),
        pytest.param("1.234.567", Fraction(1234567), id="dots"),
        pytest.param("1.234,50 \u20ac", Fraction(2469, 2), id="dot-and-decimal-comma"),
        pytest.param("0,125", Fraction(1, 8), id="decimal-comma-behind-zero"),
        pytest.param("12,5 %", Fraction(25, 2), id="decimal-comma-before-percent"),
        pytest.param("1.234", Fraction(617, 500), id="one-dot-is-a-decimal-point"),
        pytest.param("1, 2", Fraction(2), id="a-list"),
        pytest.param("100, 200, 300", Fraction(300), id="a-list-of-hundreds"),
        pytest.param("12 34", Fraction(34), id="two-numbers"),
        pytest.param("in 2020 100", Fraction(100), id="a-year-and-a-number"),
        pytest.param("the point (0,5)", Fraction(5), id="coordinates"),
        pytest.param("25 cm^2", Fraction(25), id="square-unit"),
        pytest.param("25 m\u00b2", Fraction(25), id="square-unit-in-one-character"),
        pytest.param("25 km2", Fraction(25), id="square-unit-in-plain-text"),
        pytest.param(r"1.5 \times 10^{-3}", Fraction(3, 2000), id="power-of-ten"),
        pytest.param("1.5 \u00d7 10\u00b3", Fraction(1500), id="power-of-ten-in-typography"),
        pytest.param(r"50\%", Fraction(50), id="percent-of-latex"),
        pytest.param("\uff11\uff12", Fraction(12), id="wide-digits"),
        pytest.param("<answer>42</answer> in 3 steps", Fraction(42), id="answer-tag"),
    ],
)
def test_last_number(text: str, expected: Fraction | None) -> None:
    assert last_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("72", True, id="digits"),
        pytest.param("-1,234.5", True, id="signed-with-commas"),
        pytest.param("$5", True, id="currency"),
        pytest.param("12 %", True, id="percent"),
        pytest.param("3/4", True, id="fraction"),
        pytest.param("72 apples", False, id="with-a-word"),
        pytest.param("1, 2", False, id="two-numbers"),
        pytest.param(r"$\frac{1}{2}$", True, id="latex"),
        pytest.param("1 234", True, id="spaces"),
        pytest.param("1/0", False, id="division-by-zero"),
        pytest.param("$", False, id="currency-alone"),
        pytest.param("", False, id="empty"),
    ],
)
def test_is_number(text: str, expected: bool) -> None:
    assert is_number(text) is expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        pytest.param("Card arrival", "card arrival", True, id="letter-case"),
        pytest.param("  card\n arrival. ", "card arrival", True, id="space-and-full-stop"),
        pytest.param("**card arrival**", "card arrival", True, id="bold"),
        pytest.param("card_arrival", "card arrival", True, id="underscore"),
        pytest.param("top-up failed", "top up failed", True, id="hyphen"),
        pytest.param("don\u2019t know", "Don't know", False, id="inner-apostrophes-count"),
        pytest.param("stra\u00dfe", "STRASSE", True, id="sharp-s"),
        pytest.param("\uff41", "a", True, id="wide-letters"),
        pytest.param("-5 x", "5 x", False, id="signs-count"),
        pytest.param("50% x", "50 x", False, id="percent-counts"),
        pytest.param("3.14 m", "3 14 m", False, id="decimals-count"),
        pytest.param("the card arrival", "card arrival", False, id="more-words"),
        pytest.param("", "card arrival", False, id="nothing"),
        pytest.param("?!", "?!", True, id="only-punctuation-alike"),
        pytest.param("?", "!", False, id="only-punctuation-different"),
    ],
)
def test_exact(answer: str, reference: str, expected: bool) -> None:
    assert is_right(answer, row(reference), "exact") is expected


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalised("  *Top-Up*  (failed), -5!")
    assert once == normalised(once) == "top up failed -5"


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        pytest.param("So it is $72.00.", GSM8K, True, id="another-way-to-write-it"),
        pytest.param("72 or maybe 73", GSM8K, False, id="the-last-number-counts"),
        pytest.param("1\n#### 72", "72", True, id="final-mark-in-the-answer"),
        pytest.param("0.5", "1/2", True, id="decimal-for-a-fraction"),
        pytest.param("0.333", "1/3", False, id="rounded"),
        pytest.param("seventy-two", "72", False, id="in-words"),
        pytest.param("", "72", False, id="nothing"),
    ],
)
def test_number(answer: str, reference: str, expected: bool) -> None:
    assert is_right(answer, row(reference), "number") is expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        pytest.param("Yes.", "yes", True, id="one-word"),
        pytest.param("**No**, since there is none", "no", True, id="the-first-choice-counts"),
        pytest.param("The answer is maybe, not yes", "maybe", True, id="first-of-two"),
        pytest.param("Nothing is known", "no", False, id="a-part-of-a-word-is-none"),
        pytest.param("no-one, yes", "no", True, id="before-a-hyphen"),
        pytest.param("", "yes", False, id="nothing"),
        pytest.param("False", "true", False, id="the-other-truth-value"),
        pytest.param("yes", "true", False, id="a-choice-of-another-kind"),
        pytest.param("(B)", "b", True, id="letter-in-brackets"),
        pytest.param("B. because of A", "B", True, id="letter-first"),
        pytest.param("A good choice is B", "B", True, id="an-article-is-no-choice"),
        pytest.param("I think it is C", "C", True, id="a-pronoun-is-no-choice"),
        pytest.param("The answer is **D**, not A", "D", True, id="stated"),
        pytest.param("answer: c", "C", True, id="stated-in-lower-case"),
        pytest.param("A is wrong, so the answer is B", "B", True, id="stated-behind-another"),
        pytest.param("banana", "B", False, id="a-word-with-the-letter"),
        pytest.param("The answer is a bird.", "A", False, id="stated-article"),
        pytest.param("The correct option is a lion, not a dog.", "A", False, id="option-article"),
        pytest.param("My choice: a long walk", "A", False, id="article-behind-a-colon"),
        pytest.param("Answer: **a** walk", "A", True, id="marked-letter"),
        pytest.param("The answer is A because it is", "A", True, id="letter-before-a-clause"),
        pytest.param("The answer is (a).", "A", True, id="stated-in-brackets"),
        pytest.param("The answer is I don't know", "I", False, id="stated-pronoun"),
        pytest.param("I\u2019m not sure", "I", False, id="pronoun-with-apostrophe"),
        pytest.param("The answer = B", "B", True, id="stated-by-equals"),
        pytest.param("Option A is wrong. Option B is right.", "B", True, id="option-refused"),
        pytest.param("The answer is not A, it is B", "B", True, id="letter-denied"),
        pytest.param("Answer: A. No: the answer is C.", "C", True, id="last-answer-stated"),
        pytest.param("The answer is D, not option A", "D", True, id="answer-before-option"),
        pytest.param(r"A or B? \boxed{\text{B}}", "B", True, id="boxed-letter"),
        pytest.param("<answer>C</answer>", "C", True, id="letter-in-a-tag"),
        pytest.param('{"answer": "C"}', "C", True, id="letter-in-json"),
        pytest.param("I have no doubt: yes", "yes", True, id="no-doubt"),
        pytest.param("No question about it, yes", "yes", True, id="no-question"),
        pytest.param("It is not true. The answer is false.", "False", True, id="not-true"),
        pytest.param("It isn\u2019t true, so false", "False", True, id="isn-t-true"),
        pytest.param("Is it true or false? False.", "False", True, id="question-said-back"),
        pytest.param("Yes and no. The answer is no.", "no", True, id="stated-behind-both"),
        pytest.param("No wait. The answer to it is: **Yes**", "yes", True, id="stated-in-bold"),
        pytest.param("Answer=True", "True", True, id="stated-truth"),
        pytest.param("<answer>Yes</answer>", "yes", True, id="word-in-a-tag"),
        pytest.param("_Yes_", "yes", True, id="word-between-underscores"),
        pytest.param("no, not at all", "yes", False, id="the-other-word"),
    ],
)
def test_choice(answer: str, reference: str, expected: bool) -> None:
    assert is_right(answer, row(reference), "choice") is expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        pytest.param(GSM8K, "number", id="final-mark"),
        pytest.param("-1,200", "number", id="bare-number"),
        pytest.param("Maybe", "choice", id="maybe"),
        pytest.param("False", "choice", id="truth-value"),
        pytest.param("(c)", "choice", id="letter"),
        pytest.param("card arrival", "exact", id="words"),
        pytest.param("yes indeed", "exact", id="more-than-a-choice"),
        pytest.param("12 apples", "exact", id="number-with-unit"),
        pytest.param("?", "exact", id="punctuation"),
    ],
)
def test_auto_goes_by_the_reference(reference: str, expected: ScorerName) -> None:
    assert scorer_for(row(reference)) == expected
    assert is_right(reference, row(reference))


@pytest.mark.parametrize(
    ("scorer", "sample", "says"),
    [
        pytest.param("number", row("none"), "needs a number", id="number-of-words"),
        pytest.param("choice", row("perhaps"), "single letter", id="choice-of-words"),
        pytest.param("reasoning-gym", row("x"), "reasoning-gym task", id="no-metadata"),
        pytest.param(
            "auto", row("x", reasoning_gym={"source_dataset": "nope"}), "task", id="unknown-task"
        ),
        pytest.param("auto", row("x", reasoning_gym="gcd"), "task", id="metadata-of-another-form"),
    ],
)
def test_a_reference_that_does_not_fit_its_scorer(
    scorer: ScorerName, sample: NewSample, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_reference(sample, scorer)


def gym_row(task: str, **config: Any) -> NewSample:
    library: Any = importlib.import_module("reasoning_gym")  # untyped
    entry = library.create_dataset(task, seed=5, size=1, **config)[0]
    return NewSample(
        question=entry["question"],
        answer=str(entry["answer"]),
        domain=task,
        metadata={"reasoning_gym": entry["metadata"]},
    )


def test_the_verifier_of_a_task_takes_other_right_answers() -> None:
    sample = gym_row("puzzle24")
    turned = f"1*({sample.answer})/1"
    assert scorer_for(sample) == "reasoning-gym"
    assert is_right(sample.answer, sample)
    assert not is_right("1+1", sample)
    assert not is_right(turned, sample)  # it uses numbers that were not given


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="empty"),
        pytest.param("((", id="unbalanced"),
        pytest.param("x" * 5_000, id="long"),
        pytest.param("\0", id="nul"),
    ],
)
def test_what_a_verifier_cannot_parse_is_wrong(answer: str) -> None:
    assert not is_right(answer, gym_row("puzzle24"))


@pytest.mark.parametrize("reference", ["yes", "B", "7"])
@pytest.mark.parametrize("noise", ["answer is" + "(" * 50_000, "answer " * 20_000, "1," * 50_000])
def test_noise_is_scored_in_no_time(reference: str, noise: str) -> None:
    started = time.monotonic()
    is_right(noise, row(reference))
    assert time.monotonic() - started < 5  # seconds; a pattern that backtracks takes hours


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("It is 39 euros per month.", "39 euros a month", True),
        ("It is 69 euros per month.", "39 euros a month", False),
        ("The term is three months.", "The shortest term is 3 months", True),
        ("The shortest term is twelve months", "The shortest term is three months", False),
        ("On the first working day", "On the third working day", False),
        ("Yes, discounts are added together", "No, discounts are never added together", False),
        ("Discounts are never added together", "No, discounts are never added together", True),
        ("Up to 2.5 hours", "2.5 hours", True),
        ("Up to 25 hours", "2.5 hours", False),
        ("I do not know.", "The depots are closed on Sundays", False),
        ("", "The depots are closed on Sundays", False),
        ("<think>closed on Sundays</think>Who knows?", "The depots are closed on Sundays", False),
    ],
)
def test_a_sentence_is_right_by_its_words_and_numbers(
    answer: str, reference: str, right: bool
) -> None:
    row = NewSample(question="q", answer=reference, domain="d")
    assert is_right(answer, row, "f1") is right


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("the cat sat", "a cat sat", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("a b c d", "b x", 2 / 5),
        ("the", "the", 1.0),
        ("", "x", 0.0),
    ],
)
def test_token_f1_counts_each_word_as_often_as_it_is_there(
    answer: str, reference: str, f1: float
) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("It is Card Arrival, I think.", True), ("card", False), ("discard arrivals", False)],
)
def test_contains_wants_the_reference_s_words_in_a_row(answer: str, right: bool) -> None:
    row = NewSample(question="q", answer="card_arrival", domain="d")
    assert is_right(answer, row, "contains") is right


def rows_with(*references: str) -> list[NewSample]:
    return [NewSample(question="q", answer=one, domain="d") for one in references]


SENTENCES = rows_with(*(f"The fee of plan {n} is due on Mondays" for n in range(6)))


@pytest.mark.parametrize(
    ("rows", "asked", "scorer", "reason"),
    [
        (SENTENCES, "auto", "sentences", "references are sentences, 9.0 words"),
        (SENTENCES, "exact", "exact", "as asked for"),
        (rows_with("card arrival", "lost card", "pin"), "auto", "auto", "labels, 1.7 words"),
        (rows_with(*["the handbook does not say"] * 5), "auto", "auto", "labels"),
        (rows_with(*(f"0 0 {n} {n} 0 0 0" for n in range(6))), "auto", "auto", "exact match"),
        (rows_with("12", "#### 7", "yes", "B"), "auto", "auto", "form of its reference"),
        ([*SENTENCES, *rows_with(*map(str, range(90)))], "auto", "sentences", "sentences"),
        ([], "auto", "auto", "form"),
    ],
)
def test_the_data_choose_the_scorer(
    rows: list[NewSample], asked: ScorerName, scorer: str, reason: str
) -> None:
    choice = choose_scorer(rows, asked)
    assert choice.scorer == scorer
    assert reason in choice.reason


def test_sentences_leaves_numbers_and_choices_as_they_are() -> None:
    (number, choice) = rows_with("12", "yes")
    assert is_right("about 12", number, "sentences")
    assert not is_right("no", choice, "sentences")
    assert is_right("Due on Mondays, the fee of plan 3", SENTENCES[3], "sentences")


@pytest.mark.parametrize(
    ("right", "alike", "scorer", "warns"),
    [
        (0, 5, "exact", True),
        (0, 5, "auto", True),
        (1, 5, "exact", False),
        (0, 0, "exact", False),
        (0, 5, "f1", False),
    ],
)
def test_it_is_said_once_that_exact_match_finds_nothing(
    right: int, alike: int, scorer: ScorerName, warns: bool
) -> None:
    watch = ExactMatchWatch()
    (row,) = rows_with("due on the third day")
    told: list[str | None] = []
    for number in range(3 * EARLY_ROWS):
        answer = "The third day it is due" if number < alike else "no idea"
        told.append(watch.add(answer, row, scorer, right=number < right))
    warnings = {n: text for n, text in enumerate(told, 1) if text}
    assert list(warnings) == ([EARLY_ROWS] if warns else [])
    assert not warns or "5 are by token F1" in warnings[EARLY_ROWS]
