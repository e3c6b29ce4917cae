"""What each strategy draws and keeps: tables worked by hand, and a toy policy with a known best."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_draws import drawn

from rttc_graph.arms import policy_names, unregister_arm
from rttc_graph.errors import BudgetExceeded, ConfigurationError, PolicyModelError, RttcError
from rttc_graph.search.adaptive import Adaptive, stays_ahead
from rttc_graph.search.best_of_n import BestOfN
from rttc_graph.search.majority import Majority
from rttc_graph.search.panel import MAX_ROUNDS, Panel, draws_in_order, standings
from rttc_graph.search.strategies import register_strategy, strategy_of
from rttc_graph.search.strategy import Choice, Strategy
from rttc_graph.search.weighted import FLOOR, MOST, Weighted, judged_weight, log_odds
from rttc_graph.state import Drawn, FinishReason

EVERY: dict[str, Strategy] = {
    name: strategy_of(name) for name in ("best_of_n", "majority", "weighted", "adaptive")
}


def panel(*draws: Drawn, size: int = 8, **more: Any) -> Panel:
    return Panel(size=max(size, len(draws)), proposers=("direct", "rag"), drawn=draws, **more)


def votes(answers: str) -> tuple[Drawn, ...]:
    """Return draws without rewards, one for each letter; a dot cannot be read."""
    return tuple(drawn(None if letter == "." else letter) for letter in answers)


A9, A1, B6, B5 = drawn("a", 0.9), drawn("a", 0.1), drawn("b", 0.6), drawn("b", 0.5)
R5 = drawn("b", 0.5, by="rag")

# Log-odds above the floor of 0.02: 0.9 is 6.09, 0.6 is 4.30, 0.5 is 3.89, 0.1 is 1.69.
CHOSEN = [
    pytest.param("best_of_n", (B6, A9, B5), Choice(1, 1), id="the-highest-reward"),
    pytest.param("best_of_n", (B5, A1, drawn("c", 0.5)), Choice(0, 1), id="of-equals-the-earlier"),
    pytest.param("best_of_n", votes("ab"), Choice(0, 1), id="best-of-n-without-rewards"),
    pytest.param(
        "best_of_n", (drawn(None, 0.9), B5), Choice(1, 1), id="one-that-cannot-be-read-loses"
    ),
    pytest.param("best_of_n", (B5, drawn("a"), B6), Choice(2, 2), id="the-judge-abstains-for-one"),
    pytest.param("majority", (A9, B5, B6), Choice(2, 2), id="most-votes-by-their-best-judged"),
    pytest.param("majority", votes("abba"), Choice(0, 2), id="a-tie-goes-to-the-earlier"),
    pytest.param("majority", votes("..b"), Choice(2, 1), id="what-cannot-be-read-has-no-vote"),
    pytest.param("majority", votes("..."), Choice(0, 0), id="no-vote-at-all"),
    pytest.param("majority", votes("bbbb"), Choice(0, 4), id="all-equal"),
    pytest.param("weighted", (A9, R5, B6), Choice(2, 2), id="two-prompts-8.19-against-6.09"),
    pytest.param("weighted", (A9, B5, B6), Choice(0, 1), id="6.09-against-one-prompt-5.31"),
    pytest.param("weighted", (A9, A1, B6), Choice(0, 2), id="6.53-against-4.30"),
    pytest.param("weighted", (A1, A1, A1, A9, B6, B6), Choice(3, 4), id="7.08-against-5.41"),
    pytest.param("weighted", (A1, A1, drawn("b", 0.9)), Choice(2, 1), id="6.09-against-2.14"),
    pytest.param("weighted", votes("abb"), Choice(1, 2), id="without-rewards-the-majority"),
    pytest.param("weighted", (drawn("a", 0.0), B5), Choice(1, 1), id="a-reward-of-0"),
    pytest.param("weighted", (drawn("b", 0.5), drawn("a", 1.0)), Choice(1, 1), id="a-reward-of-1"),
    pytest.param("adaptive", (A9, B5, B6), Choice(2, 2), id="scores-are-not-weighed"),
    pytest.param(
        "majority", (drawn("a", 0.9, text=""), drawn("a", 0.2)), Choice(1, 2), id="text-is-gone"
    ),
    pytest.param(
        "majority",
        (drawn("a", text=""), drawn("a", text=""), B5),
        Choice(2, 1),
        id="no-text-of-the-leader",
    ),
]


@pytest.mark.parametrize(("name", "draws", "kept"), CHOSEN)
def test_the_kept_draw(name: str, draws: tuple[Drawn, ...], kept: Choice) -> None:
    assert EVERY[name].choose(panel(*draws)) == kept


def test_where_rewards_are_probabilities_adaptive_weighs_them() -> None:
    draws = (A1, A1, drawn("b", 0.9))
    assert Adaptive().choose(panel(*draws)) == Choice(0, 2)
    assert Adaptive().choose(panel(*draws, calibrated=True)) == Choice(2, 1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("ended", "error", "limit"),
    [
        ("length", PolicyModelError, "max_new_tokens"),
        ("budget", BudgetExceeded, "budget_seconds"),
    ],
)
def test_without_any_text_there_is_nothing_to_keep(
    name: str, ended: FinishReason, error: type[RttcError], limit: str
) -> None:
    empty: Drawn = {**drawn(None, text=" "), "finish_reason": ended}
    with pytest.raises(error, match=f"none of 2 draws gave any text.*: raise {limit}"):
        EVERY[name].choose(panel(empty, empty))


@pytest.mark.parametrize(
    ("answers", "calibrated", "reward", "left", "drawn_next", "reason"),
    [
        ("", False, None, 16, {"direct": 2, "rag": 2}, "4 more"),  # 31/32 were they all one
        ("", False, None, 5, {"direct": 2, "rag": 1}, "3 more"),  # and two are left
        ("aa", False, None, 14, {"rag": 2}, "2 more"),
        ("aaaa", False, None, 12, {}, "sure: .* probability 0.969"),  # 31/32
        ("aaab", False, None, 12, {"rag": 3}, "3 more"),  # 247/256 with six against one
        ("aaaaab", False, None, 10, {"rag": 1}, "1 more answer may"),  # 15/16 so far
        ("aaaaab", True, 0.4, 10, {"rag": 1}, "1 more"),
        ("aabb", False, None, 12, {"direct": 1, "rag": 5}, "6 more"),  # eight against two
        ("aabb", False, None, 4, {"rag": 2}, "2 more"),  # then two left change nothing
        ("abcdefghijklmnop", False, None, 48, {"rag": 5}, "5 more"),
        ("abcdefghijkl" * 3, False, None, 28, {"rag": 7}, "7 more"),  # of 36 - 8 a quarter
        ("ab" * 18, False, None, 28, {"rag": 12}, "12 more"),
        ("aaaa", True, 0.5, 12, {}, "sure"),  # τr
        ("aaaa", True, 0.4, 12, {"rag": 2}, "2 more"),  # sure, but below τr
        ("aaaa", True, None, 12, {"rag": 2}, "2 more"),
        ("aaaaaa", True, 0.4, 10, {}, "futile: .* below τr"),  # 127/128
        ("......", False, None, 10, {}, "no answer can be read in 6 draws"),
        ("...", False, None, 13, {"rag": 3}, "3 more"),
        ("aab", False, None, 1, {}, "futile: no further draw"),
        ("abb", False, None, 1, {"rag": 1}, "1 more"),  # a would be as often, and earlier
        ("abc", False, None, 0, {}, "all 3 answers are drawn"),
    ],
)
def test_adaptive_goes_on_as_long_as_it_may_help(
    answers: str,
    calibrated: bool,
    reward: float | None,
    left: int,
    drawn_next: dict[str, int],
    reason: str,
) -> None:
    draws = [drawn(one["vote"], reward) for one in votes(answers)]
    seen = panel(*draws, size=len(draws) + left, calibrated=calibrated)
    proposal = Adaptive().propose(seen)
    total = {name: proposal.draws.get(name, 0) for name in ("direct", "rag")}
    assert {name: number for name, number in total.items() if number} == drawn_next
    assert re.search(reason, proposal.reason)


ANSWERS = st.lists(st.sampled_from("aaabc."), min_size=64, max_size=64)


@given(ANSWERS, st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_rounds_draw_no_more_than_one_at_a_time(answers: list[str], size: int) -> None:
    policy = votes("".join(answers))
    seen = panel(size=size)
    while Adaptive().propose(seen).draws:
        seen = replace(seen, drawn=policy[: len(seen.drawn) + 1])
    assert len(run_of(Adaptive(), policy, size=size).drawn) == len(seen.drawn)


def test_no_panel_takes_more_rounds_than_a_run_has() -> None:
    """Whichever of two answers each draw gives."""
    strategy, longest = Adaptive(), 0
    reached = {(0, 0): 0}  # votes for each, and the most rounds that lead there
    while reached:
        first, second = state = min(reached, key=sum)
        rounds = reached.pop(state)
        longest = max(longest, rounds)
        seen = panel(*votes("a" * first + "b" * second), size=64)
        more = sum(strategy.propose(seen).draws.values())
        for number in range(more + 1) if more else ():
            ahead, behind = sorted((first + number, second + more - number), reverse=True)
            reached[ahead, behind] = max(rounds + 1, reached.get((ahead, behind), 0))
    assert 12 < longest <= MAX_ROUNDS


@pytest.mark.parametrize(
    ("leader", "rival", "probability"),
    [(0, 0, 0.5), (1, 1, 0.5), (1, 0, 0.75), (4, 0, 31 / 32), (5, 1, 15 / 16), (0, 1, 0.25)],
)
def test_how_sure_a_lead_is(leader: int, rival: int, probability: float) -> None:
    assert stays_ahead(leader, rival) == probability


@given(st.integers(0, 64), st.integers(0, 64))
@settings(max_examples=50, deadline=None)
def test_it_is_the_mass_of_the_beta_posterior_above_one_half(leader: int, rival: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert stays_ahead(leader, rival) == pytest.approx(
        stats.beta.sf(0.5, leader + 1, rival + 1), rel=1e-9
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "size=0 of a panel must be at least 1"),
        ({"size": -1}, "size=-1"),
        ({"proposers": ()}, "must name at least one"),
        ({"proposers": ("rag", "rag")}, "each once"),
        ({"drawn": (drawn("a", math.nan),)}, "reward=nan of draw 0"),
        ({"drawn": (A9, drawn("a", 1.1))}, "reward=1.1 of draw 1"),
        ({"drawn": (drawn("a", -0.1),)}, "reward=-0.1"),
    ],
)
def test_a_panel_that_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(panel(), **wrong)


@pytest.mark.parametrize(("sure", "futile"), [(0.5, 0.9), (0.9, 0.8), (0.9, 1.0)])
def test_probabilities_out_of_order_are_refused(sure: float, futile: float) -> None:
    with pytest.raises(ConfigurationError, match=f"sure={sure} and futile={futile}"):
        Adaptive(sure=sure, futile=futile)


@pytest.mark.parametrize(
    ("had", "count", "turns"),
    [
        ("", 1, {"direct": 1}),
        ("", 5, {"direct": 3, "rag": 2}),
        ("dd", 9, {"rag": 2}),
        ("dr", 9, {"direct": 1, "rag": 1}),  # two are left of four
        ("dx", 2, {"rag": 1, "direct": 1}),  # one that is not among the proposers any more
    ],
)
def test_proposers_take_turns(had: str, count: int, turns: dict[str, int]) -> None:
    names = {"d": "direct", "r": "rag", "x": "recalled"}
    draws = tuple(drawn("a", by=names[letter]) for letter in had)
    seen = Panel(size=4 if had else 8, proposers=("direct", "rag"), drawn=draws)
    assert seen.turns(count) == turns


def test_the_draws_of_a_round_are_dealt_in_turn() -> None:
    assert draws_in_order({"rag": 3, "direct": 1}, ("direct", "rag")) == [
        "direct",
        "rag",
        "rag",
        "rag",
    ]


REWARDS = st.one_of(st.none(), st.floats(0, 1))


def test_a_weight_lies_between_0_and_the_most() -> None:
    assert log_odds(drawn("a", 0.0)) == log_odds(drawn("a", FLOOR)) == 0
    assert log_odds(drawn("a", 1.0)) == pytest.approx(MOST)
    assert log_odds(drawn("a")) == log_odds(drawn("a", 0.5)) == pytest.approx(MOST / 2)


def test_two_prompts_count_more_than_the_same_one_twice() -> None:
    alone = log_odds(drawn("a", 0.5))
    other: Drawn = {**drawn("a", 0.5), "shown": [1]}
    assert judged_weight([drawn("a", 0.5)] * 8) == pytest.approx(2 * alone)  # the cube root of 8
    assert judged_weight([drawn("a", 0.5), other]) == pytest.approx(2 * alone)
    assert judged_weight([drawn("a", 0.5), drawn("a", 0.5, by="rag")]) == pytest.approx(2 * alone)

    draws = (*[drawn("a", 0.4)] * 3, drawn("b", 0.4), drawn("b", 0.4, by="rag"))
    assert Weighted().choose(panel(*draws, calibrated=True)).place == 3
    assert Majority().choose(panel(*draws)).place == 0


@given(st.lists(st.tuples(REWARDS, st.sampled_from(["direct", "rag"])), max_size=12), REWARDS)
@settings(max_examples=100, deadline=None)
def test_one_more_vote_adds_at_most_the_most(
    votes_before: list[tuple[float | None, str]], reward: float | None
) -> None:
    before = [drawn("a", one, by=name) for one, name in votes_before]
    added = judged_weight([*before, drawn("a", reward)]) - judged_weight(before)
    assert -1e-9 <= added <= MOST + 1e-9


def test_a_strategy_of_ones_own_is_a_policy() -> None:
    register_strategy("mine", Majority(), cost=37)
    try:
        assert "mine" in policy_names()
        assert strategy_of("mine") == Majority()
        with pytest.raises(ConfigurationError, match="name is taken"):
            register_strategy("mine", BestOfN(), cost=38)
        assert strategy_of("mine") == Majority()
    finally:
        unregister_arm("mine")
    assert "mine" not in policy_names()
    with pytest.raises(
        ConfigurationError, match=r"strategy 'mine' is unknown: known are .*adaptive"
    ):
        strategy_of("mine")


def run_of(strategy: Strategy, policy: Sequence[Drawn], *, size: int, **more: Any) -> Panel:
    """Return the panel of a strategy that draws the answers of `policy` in their order."""
    seen = panel(size=size, **more)
    while draws := strategy.propose(seen).draws:
        count = sum(draws.values())
        assert 0 < count <= seen.left
        begun = len(seen.drawn)
        seen = replace(seen, drawn=(*seen.drawn, *policy[begun : begun + count]))
    return seen


DRAWS = st.lists(
    st.builds(drawn, st.sampled_from(["a", "b", "c", None]), REWARDS), min_size=1, max_size=64
)


@given(DRAWS, st.booleans(), st.floats(0, 1), st.sampled_from(sorted(EVERY)))
@settings(max_examples=200, deadline=None)
def test_every_strategy_ends_within_its_size(
    policy: list[Drawn], calibrated: bool, tau_r: float, name: str
) -> None:
    seen = run_of(EVERY[name], policy, size=len(policy), calibrated=calibrated, tau_r=tau_r)
    assert len(seen.drawn) <= len(policy)
    choice = EVERY[name].choose(seen)
    assert (
        choice.votes == [one["vote"] for one in seen.drawn].count(seen.drawn[choice.place]["vote"])
        or seen.drawn[choice.place]["vote"] is None
    )


@given(st.builds(drawn, st.sampled_from(["a", None]), REWARDS), st.sampled_from(sorted(EVERY)))
@settings(max_examples=30, deadline=None)
def test_a_panel_of_one_keeps_its_first_draw(only: Drawn, name: str) -> None:
    seen = run_of(EVERY[name], [only], size=1)
    assert (len(seen.drawn), EVERY[name].choose(seen).place) == (1, 0)


@given(DRAWS, st.sampled_from(["majority", "weighted"]), REWARDS)
@settings(max_examples=200, deadline=None)
def test_one_more_vote_never_costs_the_winner_the_vote(
    draws: list[Drawn], name: str, reward: float | None
) -> None:
    strategy = EVERY[name]
    won = draws[strategy.choose(panel(*draws)).place]["vote"]
    more = panel(*draws, drawn(won, reward)) if won else panel(*draws)
    assert more.drawn[strategy.choose(more).place]["vote"] == won


@given(DRAWS, st.integers(0, 64))
@settings(max_examples=100, deadline=None)
def test_adaptive_stops_as_out_of_reach_only_where_nothing_can_change(
    draws: list[Drawn], left: int
) -> None:
    """Every answer that may still be drawn leaves the vote as it is."""
    for calibrated in (False, True):
        seen = panel(*draws, size=len(draws) + min(left, 5), calibrated=calibrated)
        strategy = Adaptive()
        if "no further draw" not in strategy.propose(seen).reason:
            continue
        won = seen.drawn[strategy.choose(seen).place]["vote"]
        for other in ("a", "b", "c", "new"):
            full = replace(seen, drawn=(*seen.drawn, *[drawn(other, 1.0)] * seen.left))
            assert full.drawn[strategy.choose(full).place]["vote"] == won


@pytest.mark.parametrize("calibrated", [False, True])
def test_on_a_toy_policy_votes_tend_to_the_mode(calibrated: bool) -> None:
    """The right answer is drawn in 60 % of draws, two wrong ones in 20 % each."""
    dice = random.Random(7)
    right = {name: {1: 0, 9: 0, 63: 0} for name in EVERY}
    used = 0
    for _ in range(200):
        policy = [drawn(dice.choices("abc", (6, 2, 2))[0], 0.5) for _ in range(63)]
        for name, counts in right.items():
            for size in counts:
                seen = run_of(EVERY[name], policy, size=size, calibrated=calibrated)
                counts[size] += seen.drawn[EVERY[name].choose(seen).place]["vote"] == "a"
                used += len(seen.drawn) if (name, size) == ("adaptive", 63) else 0
    assert right["majority"][1] < right["majority"][9] < right["majority"][63]
    assert right["majority"][63] >= 190
    assert right["adaptive"][63] >= 170
    assert used / 200 < 42  # of 63


def test_with_a_judge_that_knows_the_rare_right_answer_is_found() -> None:
    """The right answer is drawn in 20 % of draws, and a calibrated judge knows it."""
    dice = random.Random(7)
    found = dict.fromkeys(EVERY, 0)
    for _ in range(200):
        said = [dice.choices("abc", (2, 5, 3))[0] for _ in range(16)]
        policy = [drawn(one, 0.9 if one == "a" else 0.05) for one in said]
        for name, strategy in EVERY.items():
            seen = run_of(strategy, policy, size=16, calibrated=True)
            found[name] += seen.drawn[strategy.choose(seen).place]["vote"] == "a"
    assert found["majority"] < 20
    assert found["best_of_n"] > 180
    assert found["weighted"] > 150


def test_votes_are_listed_from_the_strongest() -> None:
    found = standings(panel(*votes("abbca")))
    assert [(one.answer, one.votes) for one in found] == [("a", 2), ("b", 2), ("c", 1)]


def test_weighted_and_majority_agree_where_all_rewards_are_equal() -> None:
    draws = [drawn(letter, 0.51) for letter in "abbac"]
    assert Weighted().choose(panel(*draws)) == Majority().choose(panel(*draws))
