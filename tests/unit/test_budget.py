"""What is left of a budget, and what is added to what was spent."""

from __future__ import annotations

import time

import pytest

from rttc_graph.run.budget import NOTHING_SPENT, Allowance, added
from rttc_graph.settings import RttcSettings


def test_an_allowance_is_what_the_settings_give_less_what_is_spent() -> None:
    settings = RttcSettings(budget_seconds=10, budget_tokens=100, budget_arms=3)
    left = Allowance.from_spent({"seconds": 2.5, "tokens": 40, "arms": 1}, settings)
    assert left == Allowance(seconds=7.5, tokens=60, arms=2)


def test_an_overdrawn_budget_is_below_zero() -> None:
    left = Allowance.from_spent(
        {"seconds": 11.0, "tokens": 0, "arms": 0}, RttcSettings(budget_seconds=10)
    )
    assert left.seconds == -1.0


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(Allowance(1.0, 1, 1), None, id="nothing-is-used-up"),
        pytest.param(Allowance(0.0, 1, 1), "seconds", id="seconds-are-used-up"),
        pytest.param(Allowance(-1.0, 1, 1), "seconds", id="seconds-are-overdrawn"),
        pytest.param(Allowance(1.0, 0, 1), "tokens", id="tokens-are-used-up"),
        pytest.param(Allowance(1.0, 1, 0), "arms", id="arms-are-used-up"),
        pytest.param(Allowance(0.0, 0, 0), "seconds", id="seconds-are-named-first"),
    ],
)
def test_exhausted(left: Allowance, expected: str | None) -> None:
    assert left.exhausted() == expected


def test_work_is_added_to_what_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 107.5)
    before = {"seconds": 1.0, "tokens": 10, "arms": 1}
    after = added({"seconds": 1.0, "tokens": 10, "arms": 1}, since=105.0, tokens=7, arms=1)
    assert after == {"seconds": 3.5, "tokens": 17, "arms": 2}
    assert before == {"seconds": 1.0, "tokens": 10, "arms": 1}


def test_adding_leaves_the_constant_alone() -> None:
    added(NOTHING_SPENT, since=time.monotonic() - 5, tokens=7, arms=1)
    assert NOTHING_SPENT == {"seconds": 0.0, "tokens": 0, "arms": 0}
