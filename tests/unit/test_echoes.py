"""What an answer adds to its question."""

from __future__ import annotations

import time

import pytest

from rttc_graph.integrations.rewards.trained.echoes import without_echo

TASK = "Name the banking intent of this customer message."
MESSAGE = "When will the card I ordered last Monday be here?"
ASKED = f"{TASK}\nMessage: {MESSAGE}"


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        pytest.param(f"{ASKED} top up failed", "top up failed", id="before"),
        pytest.param(f"{ASKED}\n\ntop up failed", "top up failed", id="line"),
        pytest.param(f"top up failed. {ASKED}", "top up failed.", id="behind"),
        pytest.param(f"{ASKED} top up failed {ASKED}", "top up failed", id="both-sides"),
        pytest.param(f"{ASKED} {ASKED} top up failed", "top up failed", id="twice"),
        pytest.param(f'"{ASKED}" top up failed', "top up failed", id="quotes"),
        pytest.param(f"«{ASKED}» top up failed", "top up failed", id="other-quotes"),
        pytest.param(f"Q: {ASKED}\nA: top up failed", "top up failed", id="letters"),
        pytest.param(f"Question: {ASKED} Answer: top up", "top up", id="labels"),
        pytest.param(f"**Question:** {ASKED}\n**Answer:** top up", "top up", id="marks"),
        pytest.param(
            f"You asked: {ASKED} The answer is top up.", "The answer is top up.", id="sentence"
        ),
        pytest.param(f"{ASKED.upper()} top up failed", "top up failed", id="capitals"),
        pytest.param(f"{ASKED.swapcase()} top up failed", "top up failed", id="swapped-case"),
        pytest.param(f"{' '.join(ASKED.split())}: top up", "top up", id="spacing"),
        pytest.param(f"{MESSAGE} top up failed", "top up failed", id="message-alone"),
        pytest.param(f"{TASK} top up failed", "top up failed", id="instruction-alone"),
        pytest.param("card I ordered last Monday be here? top up", "top up", id="part"),
        pytest.param(
            "Name the intent of this customer message: When will the card ordered last Monday "
            "be here? top up",
            "Name the top up",
            id="words-left-out",
        ),
    ],
)
def test_a_copy_of_the_question_is_taken_out(answer: str, left: str) -> None:
    assert without_echo(ASKED, answer) == left


@pytest.mark.parametrize(
    ("question", "answer", "left"),
    [
        ("What is 17 + 25?", "What is 17 + 25? -42", "-42"),
        ("What is 17 + 25?", "What is 17 + 25? $42", "$42"),
        ("What is the capital of Peru?", "The capital of Peru is Lima.", "is Lima."),
        ("法国的首都是哪里?请回答。", "法国的首都是哪里?请回答。巴黎", "巴黎"),
        ("フランスの首都は\uff1f", "フランスの首都は\uff1fパリ", "パリ"),
        ("Was ist größer, Mond oder Erde?", "WAS IST GRÖSSER, MOND ODER ERDE? Erde", "Erde"),
    ],
)
def test_any_script_and_what_belongs_to_the_answer(question: str, answer: str, left: str) -> None:
    assert without_echo(question, answer) == left


@pytest.mark.parametrize(
    "form", ["{}", '"{}"', "Question: {}\nAnswer:", "{} ...", "{} {}", "Q: {} A: {}"]
)
@pytest.mark.parametrize("asked", [ASKED, ASKED.upper()])
def test_a_question_said_back_is_the_question(form: str, asked: str) -> None:
    assert without_echo(ASKED, form.format(asked, asked)) == ASKED


def test_an_answer_of_the_question_s_words_is_left_behind_a_copy() -> None:
    question = "My card is not working, is the label card not working?"
    for answer in ("not working", "card is not working", "is the label card not working"):
        assert without_echo(question, f"Q: {question} A: {answer}.") == f"{answer}."


CHOICE = (
    "Which planet is the largest?\n(A) Mercury, the smallest of them all\n"
    "(B) Jupiter, the gas giant with the red spot\n(C) Mars, the red one with two small moons"
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        pytest.param(ASKED, "card arrival", id="plain"),
        pytest.param(ASKED, "", id="nothing"),
        pytest.param(ASKED, " \n", id="blank"),
        pytest.param("", "card arrival", id="no-question"),
        pytest.param("Why?", "Why? That is why.", id="short-question"),
        pytest.param("Say after me: the tin hen sings", "the tin hen sings", id="say-after-me"),
        pytest.param(CHOICE, "Jupiter, the gas giant with the red spot", id="option"),
        pytest.param(CHOICE, "It is Jupiter, the gas giant with the red spot.", id="said-option"),
        pytest.param(CHOICE, "Jupiter, the gas giant with the red spot, is it", id="option-first"),
        pytest.param(
            "Which is heavier: a kilogram of lead or a kilogram of feathers on the moon?",
            "It is a kilogram of feathers on the moon.",
            id="one-of-two",
        ),
        pytest.param(
            "Mend the grammar: he go to school every day with the bus",
            "He goes to school every day with the bus",
            id="edited",
        ),
    ],
)
def test_an_answer_of_the_question_s_words_stays(question: str, answer: str) -> None:
    assert without_echo(question, answer) == answer


@pytest.mark.parametrize("text", ["x", "word ", "a b c ", "答", "\u0301", '"', "Q: ", "*", "\nx"])
def test_long_texts_take_time_in_proportion(text: str) -> None:
    question = f"What is this word word word a b c 答答答答 {text * 400}?"

    def seconds(length: int) -> float:
        filler = text * (length // len(text))
        answer = f"{filler} {question} {filler} {question}{filler} end"
        found: list[float] = []
        for _ in range(3):
            began = time.process_time()
            without_echo(question, answer)
            found.append(time.process_time() - began)
        return min(found)

    # 8 times the length; 64 times the seconds if it were quadratic
    assert seconds(32_000) < 24 * seconds(4_000) + 0.3
