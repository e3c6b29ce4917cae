from __future__ import annotations

import random

import pytest

from rttc_graph.evaluation.reliability import ReliabilityBin, calibration_error, reliability
from rttc_graph.reward_training.reward_metrics import auc, auc_within, reward_metrics


def test_auc_against_all_pairs() -> None:
    chance = random.Random(0)
    for size in (2, 7, 40):
        scores = [chance.choice([0.1, 0.2, 0.5, 0.9]) for _ in range(size)]
        right = [True, False, *(chance.random() < 0.4 for _ in range(size - 2))]
        good = [s for s, r in zip(scores, right, strict=True) if r]
        bad = [s for s, r in zip(scores, right, strict=True) if not r]
        wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
        assert auc(scores, right) == pytest.approx(wins / (len(good) * len(bad)))


@pytest.mark.parametrize("right", [[True, True], [False, False], []])
def test_auc_needs_right_and_wrong(right: list[bool]) -> None:
    assert auc([0.5] * len(right), right) is None


def test_pairs_of_different_questions_do_not_count_within() -> None:
    # a: 0.2 right below 0.4 wrong (lost); b: 0.9 right above 0.8 wrong (won); c has no right one
    scores, right = [0.2, 0.4, 0.9, 0.8, 0.99], [True, False, True, False, False]
    assert auc_within(scores, right, ["a", "a", "b", "b", "c"]) == 0.5
    assert auc_within([0.5], [True], ["a"]) is None


def test_calibration_error_against_a_hand_calculation() -> None:
    # [0.9, 1]: mean 0.95, half right, weight 2/3; [0, 0.1): 0.0, none right: (2/3)·0.45 = 0.3
    assert calibration_error([0.95, 0.95, 0.0], [True, False, False]) == pytest.approx(0.3)
    # bin 0.9: said 0.95, 1 of 2 right, gap 0.45; bin 0.1: said 0.1, 0 of 2, gap 0.1
    found = calibration_error([0.95, 0.95, 0.1, 0.1], [True, False, False, False])
    assert found == pytest.approx((2 * 0.45 + 2 * 0.1) / 4)
    assert calibration_error([1.0, 0.0], [True, False]) == 0
    assert calibration_error([], []) is None


def test_a_reward_on_an_edge_counts_to_the_bin_above() -> None:
    found = reliability([0.3, 0.3, 1.0, 0.29], [True, False, True, False])
    assert found == [
        ReliabilityBin(said=0.29, found=0.0, answers=1),
        ReliabilityBin(said=0.3, found=0.5, answers=2),
        ReliabilityBin(said=1.0, found=1.0, answers=1),
    ]


def test_figures_of_nothing_are_none() -> None:
    found = reward_metrics([], [], [])
    assert found["answers"] == 0
    assert found["auc"] is found["ece"] is found["false_accepts"] is None


def test_false_accepts_are_among_the_accepted() -> None:
    found = reward_metrics([0.8, 0.9, 0.79], [False, True, False], ["a", "a", "b"])
    assert found["accepted"] == 2
    assert found["false_accepts"] == 0.5
