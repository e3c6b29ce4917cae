"""The puzzles of the benchmarks: the same each time, and never with its own exam inside."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.tools.reasoning_puzzles import TASKS, questions, samples
from rttc_graph.errors import ConfigurationError
from rttc_graph.evaluation.scorers import is_right, scorer_for
from rttc_graph.protocols import NewSample

PER_TASK = 100


@pytest.fixture(scope="module")
def stored() -> list[NewSample]:
    return samples(PER_TASK)


@pytest.fixture(scope="module")
def asked(stored: list[NewSample]) -> list[NewSample]:
    return questions(10, apart_from=stored)


def test_every_domain_gets_the_same_number_of_different_samples(stored: list[NewSample]) -> None:
    assert Counter(s.domain for s in stored) == {task.domain: PER_TASK for task in TASKS}
    assert len({(s.domain, s.question) for s in stored}) == len(stored)


def test_no_question_is_among_the_samples(stored: list[NewSample], asked: list[NewSample]) -> None:
    assert {s.question for s in stored}.isdisjoint(q.question for q in asked)
    assert Counter(q.domain for q in asked) == {task.domain: 10 for task in TASKS}


def test_the_same_seed_gives_the_same_and_another_one_others(stored: list[NewSample]) -> None:
    assert samples(5) == [s for task in TASKS for s in _of(stored, task.domain)[:5]]
    assert samples(5, seed=50_000) != samples(5)


def test_texts_are_short_enough_for_a_small_model(
    stored: list[NewSample], asked: list[NewSample]
) -> None:
    for sample in [*stored, *asked]:
        assert 0 < len(sample.question) <= 260
        assert 0 < len(sample.answer) <= 40


def test_the_verifier_takes_each_reference_and_refuses_another(asked: list[NewSample]) -> None:
    for question in asked:
        assert scorer_for(question) == "reasoning-gym"
        assert is_right(question.answer, question)
        assert not is_right("no such answer", question)


def test_more_than_a_task_has_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is too many"):
        samples(300)


def test_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="per_task=0"):
        samples(0)


def _of(rows: list[NewSample], domain: str) -> list[NewSample]:
    return [row for row in rows if row.domain == domain]
