"""`refine`, `revise` and `self_verify`: worked by hand, and on a toy policy with a known best."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_draws import drawn

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.nodes.panels.panel_checking import expected_grade
from rttc_graph.protocols import OptionProbabilities, OptionsRequest
from rttc_graph.search.chains import chains, kept_of, text_in_hand
from rttc_graph.search.panel import Panel
from rttc_graph.search.refine import Refine
from rttc_graph.search.revise import Revise
from rttc_graph.search.self_verify import SelfVerify
from rttc_graph.search.strategy import Choice, Proposal, Strategy
from rttc_graph.state import Drawn


def panel(*draws: Drawn, size: int = 8, **more: Any) -> Panel:
    return Panel(size=size, proposers=("direct", "rag"), drawn=draws, **more)


# --- chains ------------------------------------------------------------------------------------


def test_chains_are_answers_with_their_revisions() -> None:
    seen = panel(
        drawn("a"), drawn("b"), drawn("c", revises=0), drawn("d", revises=1), drawn("e", revises=2)
    )
    assert chains(seen) == [(0, 2, 4), (1, 3)]


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ((0.4, 0.5), 1),
        ((0.4, 0.4), 0),  # no higher
        ((0.4, 0.3, 0.6), 2),
        ((0.4, 0.6, 0.5), 1),
        ((None, None), 0),
        ((0.4, None), 0),
        ((None, 0.1), 1),
    ],
)
def test_a_revision_is_kept_only_if_its_reward_is_higher(
    rewards: tuple[float | None, ...], kept: int
) -> None:
    draws = [drawn("a", rewards[0]), *(drawn("b", reward, revises=0) for reward in rewards[1:])]
    assert kept_of(panel(*draws), range(len(draws))) == kept


def test_an_answer_that_can_be_read_takes_the_place_of_one_that_cannot() -> None:
    seen = panel(drawn(None, 0.9), drawn("a", 0.1, revises=0), drawn(None, 1.0, revises=1))
    assert kept_of(seen, (0, 1, 2)) == 1


def test_a_text_that_was_dropped_is_that_of_the_same_vote() -> None:
    seen = panel(drawn("a", 0.2, text=""), drawn("a", 0.9, text="A!"), drawn(None, text=""))
    assert [text_in_hand(seen, place) for place in range(3)] == ["A!", "A!", ""]


# --- refine and revise -------------------------------------------------------------------------

LOW = drawn("a", 0.3)
PROPOSED = [
    pytest.param(Refine(), (), {"direct": 1}, (), "an answer to revise", id="refine-begins"),
    pytest.param(Refine(), (LOW,), {}, (0,), "0.300 is below τr", id="refine-below"),
    pytest.param(Refine(), (drawn("a", 0.5),), {}, (), "0.500 is at least τr 0.5", id="at-tau"),
    pytest.param(Refine(), (drawn("a"),), {}, (), "no reward", id="refine-without-a-reward"),
    pytest.param(
        Refine(), (drawn(None),), {"rag": 1}, (), "an answer to revise", id="refine-unreadable"
    ),
    pytest.param(
        Refine(), (LOW, drawn("b", 0.4, revises=0)), {}, (1,), "0.400", id="refine-goes-on-from-it"
    ),
    pytest.param(
        Refine(), (LOW, drawn("b", 0.1, revises=0)), {}, (0,), "below", id="refine-tries-again"
    ),
    pytest.param(
        Refine(),
        (LOW, drawn("b", 0.3, revises=0), drawn("a", 0.2, revises=0)),
        {},
        (),
        "2 revisions of the answer have no higher reward",
        id="refine-gives-up",
    ),
    pytest.param(Revise(), (), {"direct": 2, "rag": 1}, (), "3 answers", id="root-of-8-rounded-up"),
    pytest.param(Revise(parallel=2), (), {"direct": 1, "rag": 1}, (), "2", id="chains-as-told"),
    pytest.param(
        Revise(),
        (LOW, drawn("b", 0.2), drawn("c")),
        {},
        (0, 1, 2),
        "3 answers are revised",
        id="revise-each",
    ),
    pytest.param(
        Revise(),
        (LOW, drawn("b", 0.2), drawn("c", 0.6, revises=0), drawn("d", 0.1, revises=1)),
        {},
        (2, 1),
        "2 answers are revised",
        id="revise-what-is-kept",
    ),
    pytest.param(
        Revise(),
        tuple(drawn("a", 0.1) for _ in range(7)),
        {},
        (0,),
        "1 answers",
        id="revise-no-more-than-are-left",
    ),
    pytest.param(
        Revise(), (drawn(None, text=""),), {}, (), "no answer has a text", id="nothing-to-revise"
    ),
]


@pytest.mark.parametrize(("strategy", "draws", "new", "revisions", "reason"), PROPOSED)
def test_what_is_revised_next(
    strategy: Strategy,
    draws: tuple[Drawn, ...],
    new: dict[str, int],
    revisions: tuple[int, ...],
    reason: str,
) -> None:
    proposal = strategy.propose(panel(*draws))
    assert (dict(proposal.draws), proposal.revisions) == (new, revisions)
    assert reason in proposal.reason


@pytest.mark.parametrize(
    ("strategy", "draws", "kept"),
    [
        pytest.param(
            Refine(), (LOW, drawn("b", 0.4, revises=0)), Choice(1, 1), id="refine-the-higher"
        ),
        pytest.param(
            Refine(), (LOW, drawn("b", 0.3, revises=0)), Choice(0, 1), id="refine-the-first"
        ),
        pytest.param(Refine(), (drawn("a"), drawn("b", revises=0)), Choice(0, 1), id="unjudged"),
        pytest.param(Refine(), (drawn(None),), Choice(0, 0), id="refine-what-cannot-be-read"),
        pytest.param(
            Revise(),
            (LOW, drawn("b", 0.6), drawn("a", 0.1, revises=0), drawn("c", 0.5, revises=1)),
            Choice(0, 2),
            id="revise-votes-over-all-answers",
        ),
    ],
)
def test_the_answer_that_is_kept(
    strategy: Strategy, draws: tuple[Drawn, ...], kept: Choice
) -> None:
    assert strategy.choose(panel(*draws)) == kept


@pytest.mark.parametrize("strategy", [Refine(), Revise(), SelfVerify()])
def test_a_full_panel_draws_no_more_and_an_empty_one_keeps_nothing(strategy: Strategy) -> None:
    assert not strategy.propose(panel(LOW, size=1)).draws
    assert not strategy.propose(panel(LOW, size=1)).revisions
    with pytest.raises(PolicyModelError, match="draws gave any text"):
        strategy.choose(panel(drawn(None, text="")))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Refine(patience=0), "patience=0 must be at least 1"),
        (lambda: Revise(parallel=-1), "parallel=-1 must be at least 0"),
        (lambda: SelfVerify(near=1.5), r"near=1.5 must be in \[0, 1\]"),
        (lambda: SelfVerify(near=float("nan")), "near=nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Strategy], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


# --- self_verify -------------------------------------------------------------------------------

A, B, C = drawn("a", grade=0.5), drawn("b", grade=0.52), drawn("c", grade=0.9)


@pytest.mark.parametrize(
    ("draws", "compared", "grades", "pairs", "reason"),
    [
        pytest.param((LOW, drawn("b")), {}, (0, 1), (), "2 answers are graded", id="each-once"),
        pytest.param((LOW, LOW, drawn("b")), {}, (0, 2), (), "2 answers", id="equals-together"),
        pytest.param((LOW, LOW), {}, (), (), "no two different answers", id="all-equal"),
        pytest.param((LOW, drawn(None)), {}, (), (), "no two different", id="one-can-be-read"),
        pytest.param((A, B), {}, (), ((0, 1),), "near each other", id="near"),
        pytest.param((A, B, C), {}, (), (), "all 3 different answers are graded", id="clear"),
        pytest.param((A, B), {(0, 1): 0.3}, (), (), "graded", id="compared-once"),
    ],
)
def test_what_is_graded_and_compared(
    draws: tuple[Drawn, ...],
    compared: dict[tuple[int, int], float],
    grades: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
    reason: str,
) -> None:
    proposal = SelfVerify().propose(panel(*draws, size=len(draws), compared=compared))
    assert (proposal.grades, proposal.pairs, dict(proposal.draws)) == (grades, pairs, {})
    assert reason in proposal.reason


@pytest.mark.parametrize(
    ("draws", "compared", "kept"),
    [
        pytest.param((A, B), {}, Choice(1, 1), id="the-better-grade"),
        pytest.param((A, B), {(0, 1): 0.7}, Choice(0, 1), id="the-preferred"),
        pytest.param((A, B), {(0, 1): 0.2}, Choice(1, 1), id="preferred-too"),
        pytest.param((A, B), {(0, 1): 0.5}, Choice(1, 1), id="no-preference"),
        pytest.param((A, B, C), {(0, 1): 0.9}, Choice(2, 1), id="a-better-one-than-both"),
        pytest.param((drawn("b"), A, drawn("b"), drawn("a")), {}, Choice(1, 2), id="votes-count"),
        pytest.param(
            (drawn("b", grade=0.5), A, drawn("a")), {}, Choice(1, 2), id="equal-grades-more-votes"
        ),
        pytest.param((drawn("b"), LOW, LOW), {}, Choice(1, 2), id="without-grades-the-majority"),
    ],
)
def test_the_verified_answer(
    draws: tuple[Drawn, ...], compared: dict[tuple[int, int], float], kept: Choice
) -> None:
    assert SelfVerify().choose(panel(*draws, compared=compared)) == kept


@pytest.mark.parametrize(
    ("shares", "grade"),
    [
        ((1.0, 0.0), 0.0),
        ((0.0, 0.5), 1.0),  # half of the probability is elsewhere
        ((0.25, 0.25), 0.5),
        ((0.1, 0.2, 0.3), (0.2 + 0.6) / 0.6 / 2),
    ],
)
def test_a_grade_is_an_expected_value(shares: tuple[float, ...], grade: float) -> None:
    assert expected_grade(OptionProbabilities(shares, prompt_tokens=3)) == pytest.approx(grade)


@pytest.mark.parametrize("shares", [(0.0, 0.0), (float("nan"), 0.5)])
def test_grades_without_probability_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(PolicyModelError, match="the probability"):
        expected_grade(OptionProbabilities(shares, prompt_tokens=3))


@pytest.mark.parametrize("options", [(), ("a",), ("a", "a"), ("a", "")])
def test_options_that_are_no_choice_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least two different texts"):
        OptionsRequest(messages=(), options=options)


# --- a toy policy ------------------------------------------------------------------------------

REWARD = {"right": 0.4, "wrong": 0.1}
GRADE = {"right": 0.8, "wrong": 0.3}


def run_of(strategy: Strategy, dice: random.Random, *, size: int) -> Panel:
    """Return a strategy's panel of a policy that is right in 20 %, of revisions in 50 %.

    A revision spoils a right answer in half of the cases. Judge and grader are exact.
    """
    seen = panel(size=size)
    for _ in range(40):
        proposal = strategy.propose(seen)
        if proposal == Proposal(reason=proposal.reason):
            return seen
        draws = list(seen.drawn)
        for place in proposal.grades:
            draws[place] = {**draws[place], "grade": GRADE[draws[place]["text"]]}
        for _ in range(sum(proposal.draws.values())):
            text = dice.choices(("right", "wrong"), (2, 8))[0]
            draws.append(drawn(text, REWARD[text]))
        for place in proposal.revisions:
            text = dice.choice(("right", "wrong"))
            draws.append(drawn(text, REWARD[text], revises=place))
        assert len(draws) <= size
        seen = replace(seen, drawn=tuple(draws))
    raise AssertionError("it does not end")


def share_right(strategy: Strategy, size: int) -> float:
    dice = random.Random(3)
    found = 0
    for _ in range(200):
        seen = run_of(strategy, dice, size=size)
        found += seen.drawn[strategy.choose(seen).place]["text"] == "right"
    return found / 200


@pytest.mark.parametrize("strategy", [Refine(), Revise(), SelfVerify()])
def test_a_panel_of_one_is_one_draw(strategy: Strategy) -> None:
    assert 0.12 < share_right(strategy, 1) < 0.28


def test_with_an_exact_judge_each_finds_what_it_can() -> None:
    # refine: right at once, or in one of two revisions: 1 - 0.8 x 0.25 = 0.8
    assert share_right(Refine(), 8) == pytest.approx(0.8, abs=0.08)
    # self_verify: one of eight draws is right: 1 - 0.8 ** 8 = 0.83
    assert share_right(SelfVerify(), 8) == pytest.approx(0.83, abs=0.08)
    # More patience finds more: nine revisions leave 0.8 / 2 ** 9.
    assert share_right(Refine(patience=9), 64) > 0.98
    assert share_right(Revise(), 64) > share_right(Revise(), 4)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64), st.integers(0, 2**16), st.sampled_from([Refine(), Revise()]))
def test_every_revision_is_of_a_draw_before_it(size: int, seed: int, strategy: Strategy) -> None:
    seen = run_of(strategy, random.Random(seed), size=size)
    assert 1 <= len(seen.drawn) <= size
    for place, one in enumerate(seen.drawn):
        assert one.get("revises", -1) < place
    for chain in chains(seen):
        rewards = [seen.drawn[place]["reward"] or 0.0 for place in chain]
        assert seen.drawn[kept_of(seen, chain)]["reward"] == max(rewards)
    assert re.search(r"\w", strategy.propose(seen).reason)
