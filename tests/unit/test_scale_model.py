"""The simulation of many replicas, held to what theory says of its store and its queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.tools.scale_model import Measured, Plan, lru_hit_rate, simulate, zipf

QUICK = Measured(tokens=1, first_row_seconds=0.001, further_row_seconds=0.0)


@pytest.mark.parametrize(("exponent", "kept"), [(0.8, 20), (1.0, 60)])
def test_hits_are_those_of_a_least_recently_used_store(exponent: float, kept: int) -> None:
    plan = Plan(
        rate=20, topics=200, exponent=exponent, resident=kept, trained=1, seconds=150, times=QUICK
    )
    expected = lru_hit_rate(zipf(200, exponent), kept)
    assert simulate(plan).hit_rate == pytest.approx(expected, abs=0.03)


def test_a_replica_is_busy_for_the_work_that_comes() -> None:
    times = Measured(tokens=1, first_row_seconds=0.1, further_row_seconds=0.1, most_rows=1)
    plan = Plan(rate=5, topics=1, trained=1, seconds=200, times=times)
    found = simulate(plan)
    assert found.busy == pytest.approx(0.5, abs=0.06)
    assert found.database_busy == pytest.approx(5 * times.recall_seconds / 2, rel=0.1)


def test_each_topic_is_trained_once_wherever_it_is_asked() -> None:
    plan = Plan(replicas=4, rate=10, topics=30, exponent=0.0, routing="any", times=QUICK)
    found = simulate(replace(plan, seconds=20.0))
    assert found.trainings <= 30
    assert simulate(replace(plan, seconds=20.0)) == found  # the same seed, the same outcome
    assert simulate(replace(plan, seconds=20.0, trained=1.0)).trainings == 0


def test_given_questions_come_at_their_times_and_all_are_answered() -> None:
    times = Measured(tokens=2, first_row_seconds=1.0, load_seconds=0.0, recall_seconds=0.0)
    found = simulate(Plan(topics=1, trained=1, times=times, arrivals=(1.0, 100.0)))
    assert (found.waits, found.ended) == ([2.0, 2.0], 102.0)


def test_given_questions_take_as_long_as_their_lengths_say() -> None:
    times = Measured(tokens=20, first_row_seconds=1.0, load_seconds=0.0, recall_seconds=0.0)
    plan = Plan(topics=1, trained=1, times=times, arrivals=(1.0, 100.0), lengths=(0.5, 1.25))
    assert simulate(plan).waits == [10.0, 25.0]


@pytest.mark.parametrize(
    ("rows", "seconds"), [(1, 1.0), (2, 1.5), (4, 2.5), (6, 4.25), (8, 6.0), (16, 6.0)]
)
def test_times_of_several_numbers_of_rows_have_straight_lines_between_them(
    rows: int, seconds: float
) -> None:
    times = Measured(row_seconds=((1, 1.0), (2, 1.5), (4, 2.5), (8, 6.0)))
    assert times.pass_seconds(rows) == pytest.approx(seconds)
    two = Measured(first_row_seconds=1.0, further_row_seconds=0.5)
    assert two.pass_seconds(rows) == pytest.approx(1 + 0.5 * (rows - 1))
