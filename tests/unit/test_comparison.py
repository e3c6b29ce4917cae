"""The verdict of an evaluation, and the default policy against each arm."""

from __future__ import annotations

import random

import pytest

from rttc_graph.evaluation.comparison import Comparisons, against_arms, points, verdict
from rttc_graph.evaluation.replay import ReplayedRun


def runs(rights: list[int], seconds: float) -> list[ReplayedRun]:
    return [
        ReplayedRun(
            right=float(right),
            seconds=seconds,
            prompt_tokens=0,
            completion_tokens=0,
            trained_tokens=0,
            shares={"rag": 1.0},
        )
        for right in rights
    ]


def drawn(questions: int, **ways: tuple[float, float]) -> Comparisons:
    """Ways by accuracy and seconds; the same questions are hard for all of them."""
    draw = random.Random(1)
    hardness = [(n + 0.5) / questions for n in range(questions)]
    draw.shuffle(hardness)
    outcomes = {
        name.replace("_", " "): runs([int(h < accuracy) for h in hardness], seconds)
        for name, (accuracy, seconds) in ways.items()
    }
    return Comparisons(outcomes)


def told(found: Comparisons) -> tuple[str, str, str | None]:
    said = verdict(found, list(found.rights))
    return said["finding"], said["policy"], said["against"]


@pytest.mark.parametrize(
    ("questions", "ways", "expected"),
    [
        pytest.param(
            150,
            {"nearest": (0.9, 0.02), "rag": (0.85, 2.0), "cascade": (0.88, 4.0)},
            ("as good", "nearest", "cascade"),
            id="the-cheap-one-is-as-good",
        ),
        pytest.param(
            150,
            {"nearest_sample": (0.9, 0.01), "nearest": (0.9, 0.02), "cascade": (0.88, 4.0)},
            ("as good", "nearest", "cascade"),
            id="an-arm-goes-before-its-baseline",
        ),
        pytest.param(
            150,
            {"majority_answer": (0.6, 0.0), "nearest": (0.6, 0.02), "cascade": (0.6, 4.0)},
            ("as good", "majority answer", "cascade"),
            id="one-answer-for-all",
        ),
        pytest.param(
            300,
            {"nearest": (0.5, 0.02), "rag": (0.6, 2.0), "cascade": (0.9, 4.0)},
            ("best", "cascade", "rag"),
            id="the-dear-one-is-worth-it",
        ),
        pytest.param(
            300,
            {"rag": (0.6, 2.0), "ttt": (0.9, 9.0), "cascade": (0.7, 4.0)},
            ("better", "ttt", "cascade"),
            id="a-dearer-arm-is-better",
        ),
        pytest.param(
            300,
            {"nearest": (0.9, 0.02), "rag": (0.6, 2.0), "cascade": (0.7, 4.0)},
            ("better", "nearest", "cascade"),
            id="a-cheaper-arm-is-better",
        ),
        pytest.param(
            300,
            {"nearest_sample": (0.89, 0.01), "nearest": (0.9, 0.02), "cascade": (0.7, 4.0)},
            ("better", "nearest", "cascade"),
            id="a-better-arm-goes-before-what-is-as-good-as-it",
        ),
        pytest.param(
            300,
            {"nearest_sample": (0.9, 0.01), "nearest": (0.9, 0.02), "cascade": (0.7, 4.0)},
            ("better", "nearest", "cascade"),
            id="of-equals-the-one-that-can-be-chosen",
        ),
        pytest.param(
            40,
            {"nearest": (0.84, 0.02), "cascade": (0.92, 4.0)},
            ("open", "nearest", "cascade"),
            id="too-few-to-tell",
        ),
        pytest.param(
            40,
            {"nearest": (0.9, 0.02), "cascade": (0.9, 4.0)},
            ("open", "nearest", "cascade"),
            id="all-alike-on-few",
        ),
        pytest.param(
            5,
            {"nearest": (0.0, 0.02), "cascade": (1.0, 4.0)},
            ("open", "cascade", None),
            id="five-questions-tell-nothing",
        ),
        pytest.param(5, {"cascade": (1.0, 4.0)}, ("open", "cascade", None), id="one-alone-on-few"),
        pytest.param(
            150,
            {"nearest": (0.9, 3.9), "cascade": (0.9, 4.0)},
            ("best", "cascade", None),
            id="nothing-is-cheaper",
        ),
        pytest.param(
            150,
            {"direct": (0.2, 1.0), "rag": (0.9, 2.0)},
            ("best", "rag", "direct"),
            id="without-the-default-policy",
        ),
    ],
)
def test_the_verdict(
    questions: int, ways: dict[str, tuple[float, float]], expected: tuple[str, str, str | None]
) -> None:
    assert told(drawn(questions, **ways)) == expected


def test_the_verdict_says_who_how_much_and_at_what_price() -> None:
    found = drawn(150, nearest=(0.9, 0.02), cascade=(0.88, 4.0))
    said = verdict(found, ["nearest", "cascade"])
    mean, low, high = said["difference"] or (0, 0, 0)
    assert said["text"] == (
        "On your 150 questions `nearest` is as good as `cascade` (90.0% against 88.0%, difference "
        f"-2.0 points, {100 * low:+.1f} to {100 * high:+.1f}) at 1/200 of the time."
    )
    assert mean == pytest.approx(-0.02)
    assert said["cost_ratio"] == pytest.approx(1 / 200)
    assert verdict(found, ["nearest", "cascade"], where="banking")["text"].startswith(
        "On the 150 questions of banking `nearest` is"
    )
    free = drawn(150, majority_answer=(0.9, 0.0), cascade=(0.88, 4.0))
    assert verdict(free, list(free.rights))["text"].endswith("without a search or a model.")
    few = verdict(drawn(40, nearest=(0.84, 0.02), cascade=(0.92, 4.0)), ["nearest", "cascade"])
    assert "the interval is too wide" in few["text"]
    assert "measure more questions" in few["text"]


def test_a_comparison_the_other_way_round_is_its_mirror() -> None:
    found = drawn(200, nearest=(0.9, 0.02), cascade=(0.8, 4.0))
    mean, low, high = found("nearest", "cascade")
    assert 0 < low < mean < high
    assert found("cascade", "nearest") == (-mean, -high, -low)
    alike = drawn(20, nearest=(0.9, 0.02), cascade=(0.9, 4.0))
    alike("nearest", "cascade")
    assert "-0.0" not in points(alike("cascade", "nearest"))


def test_the_default_policy_against_each_arm() -> None:
    found = drawn(200, nearest=(0.9, 0.5), rag=(0.91, 2.0), ttt=(0.5, 9.0), cascade=(0.9, 0.6))
    against = against_arms(found, ["nearest", "rag", "ttt", "compare", "cascade"])
    assert against is not None
    assert list(against["arms"]) == ["nearest", "rag", "ttt"]
    assert against["arms"]["nearest"] == [0, 0, 0]
    assert against["arms"]["ttt"][1] > 0
    # rag is right on two questions more of 200, which is more than a standard error
    assert against["cheapest_good"] == "rag"
    assert against["cost_ratio"] == pytest.approx(0.3)
    assert against_arms(found, ["nearest", "rag"]) is None
    assert against_arms(found, ["cascade"]) is None
