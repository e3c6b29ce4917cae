"""Grades as judges write them; what is not clear must never become a number."""

from __future__ import annotations

import pytest

from rttc_graph.integrations.rewards.grades import parse_grade

GRADES = [
    ("8", 8.0),
    (" 10\n", 10.0),
    ("0", 0.0),
    ("0.0", 0.0),
    ("7.5", 7.5),
    ("7,5", 7.5),
    ("10.0", 10.0),
    ("eight", 8.0),
    ("Eight.", 8.0),
    ("8/10", 8.0),
    ("9 / 10", 9.0),
    ("8 out of 10", 8.0),
    ("eight out of ten", 8.0),
    ("4/5", 8.0),
    ("80%", 8.0),
    ("80 percent", 8.0),
    ("0.8", 8.0),
    ("Grade: 8", 8.0),
    ("Grade:\n8", 8.0),
    ("Score: 7 out of 10", 7.0),
    ("Score: 7 out of 10. It leaves the year out.", 7.0),
    ("Grade: 8 because it is right", 8.0),
    ("**Rating**: 0.8", 8.0),
    ("**Rating:** 8/10\n\nThe answer makes 3 of 4 points.", 8.0),
    ("score=0.75", 7.5),
    ("- Score: 8", 8.0),
    ("My score: 3", 3.0),
    ("The grade is eight.", 8.0),
    ("I would give this answer an 8 out of 10.", 8.0),
    ("I'd rate it 8/10.", 8.0),
    ("On a scale from 0 to 10, 8", 8.0),
    ("Score (0-10): 8", 8.0),
    ("8/10 (short but right)", 8.0),
    (r"\boxed{8}", 8.0),
    ("<think>It deserves 10/10? No.</think>\n7", 7.0),
    ("It says 10.\n</think>\nGrade: 2", 2.0),
    ("Correctness: 8/10\nStyle: 6/10\nOverall score: 7/10", 7.0),
    ('{"grade": 8}', 8.0),
    ('```json\n{"score": "8/10", "why": "nearly"}\n```', 8.0),
    ('{"score": 4, "max_score": 5}', 8.0),
    ('{"result": {"Rating": 0.8}}', 8.0),
]

NO_GRADES = [
    "",
    "1.0",
    "11",
    "85",
    "-3",
    "Score: -3",
    "7-8",
    "7 or 8",
    "Score: 7-8/10",
    "3/4",
    "Score: 11/10",
    "150%",
    "10 out of 1000",
    "1,000",
    "1e9",
    "A+",
    "nine hundred",
    "Score: NaN",
    "I cannot grade this.",
    "As a language model I do not give grades.",
    "The answer claims 10/10, which is wrong.",
    "10/10 would be too generous",
    "Score: 10 would be too generous",
    "grade 10 out of 10 is what it wants, I say 2",
    "Score: 8, no, 3",
    "Score: 8\nScore: 3",
    "8/10 or 9/10",
    "<think>it is an 8",
    '{"grade": "B"}',
    '{"score": true}',
    '{"score": null}',
    '{"score": 3, "grade": 9}',
    '{"score": 1e400}',
]


@pytest.mark.parametrize(("reply", "grade"), GRADES)
def test_a_grade_in_other_words_is_read(reply: str, grade: float) -> None:
    assert parse_grade(reply) == pytest.approx(grade)


@pytest.mark.parametrize("reply", NO_GRADES)
def test_what_is_not_clear_is_no_grade(reply: str) -> None:
    assert parse_grade(reply) is None
